"""Text to token ids, as Tekken splits and merges it.

The model's prompt needs no text; hotwords do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from heapq import heapify, heappop, heappush

from ...errors import UsageError
from ...escaping import quoted
from .tokenizer import Tokenizer

# tekken.json's pattern over one letter for the class of each character, because `re` has no Unicode
# categories: U upper and title case, L lower case, B other letters, M marks, N numbers, R line
# ends, _ the space, W other white space, / itself, P all else.
_PIECES = re.compile(
    "[^RULBN]?[UBM]*[LBM]+|[^RULBN]?[UBM]+[LBM]*|N|_?[MP/]+[R/]*|[RW_]*R+|[RW_]+(?![^RW_])|[RW_]+"
)
_CLASSES = {"Lu": "U", "Lt": "U", "Ll": "L", "Lm": "B", "Lo": "B", "Mn": "M", "Mc": "M", "Me": "M"}
_CLASSES |= {"Nd": "N", "Nl": "N", "No": "N", "Zs": "W", "Zl": "W", "Zp": "W"}
_EXCEPTIONS = {
    "\r": "R",
    "\n": "R",
    " ": "_",
    "/": "/",
    "\t": "W",
    "\v": "W",
    "\f": "W",
    "\x85": "W",
}


class TextEncoder:
    """Merges a tokenizer's byte pairs."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        """The rank of each sequence of bytes that has a token; lower ones were merged first."""
        return {piece: rank for rank, piece in enumerate(self.tokenizer.pieces)}

    def encode(self, text: str) -> list[int]:
        """Token ids.

        Raises:
            UsageError: a byte that the tokenizer does not have, or half of a character.
        """
        ids = []
        for piece in split(text):
            try:
                ranks = self._merge(piece.encode())
            except UnicodeEncodeError as error:
                raise UsageError(
                    f"{quoted(piece)}: expected whole characters ({error.reason})"
                ) from None
            ids += [self.tokenizer.first_text + rank for rank in ranks]
        return ids

    def _merge(self, piece: bytes) -> list[int]:
        """Ranks of a piece.

        Of two neighbours that have a token together those with the lowest are joined, in turn: of
        equal ones the first. A heap keeps the time nearly proportional to the length.
        """
        if piece in self.ranks:
            return [self.ranks[piece]]
        size = len(piece)
        parts = [piece[at : at + 1] for at in range(size)]  # empty where joined to one before
        before, after = list(range(-1, size - 1)), list(range(1, size + 1))

        def rank_with_next(at: int) -> int | None:
            return self.ranks.get(parts[at] + parts[after[at]]) if after[at] < size else None

        waiting = [(rank, at) for at in range(size) if (rank := rank_with_next(at)) is not None]
        heapify(waiting)
        while waiting:
            rank, at = heappop(waiting)
            if not parts[at] or rank_with_next(at) != rank:  # one of the two was joined since
                continue
            joined = after[at]
            parts[at], parts[joined], after[at] = parts[at] + parts[joined], b"", after[joined]
            if after[at] < size:
                before[after[at]] = at
            for left in (before[at], at):
                if left >= 0 and (new := rank_with_next(left)) is not None:
                    heappush(waiting, (new, left))

        parts = [part for part in parts if part]
        if missing := [part for part in parts if part not in self.ranks]:
            raise UsageError(
                f"{piece.decode()!r}: the tokenizer has no token for the byte {missing[0]!r}"
            )
        return [self.ranks[part] for part in parts]


def split(text: str) -> Iterator[str]:
    """Pieces that are merged each by itself. Source: the pattern in tekken.json."""
    classes = "".join(_EXCEPTIONS.get(character) or _class_of(character) for character in text)
    for match in _PIECES.finditer(classes):
        yield text[match.start() : match.end()]


def _class_of(character: str) -> str:
    return _CLASSES.get(unicodedata.category(character), "P")
