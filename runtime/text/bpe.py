"""Encoding of text as token ids by byte-pair merges, as the Tekken tokenizer does.

Only hotwords need it, because the model's prompt contains no text.
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

# The pattern of tekken.json, rewritten for a text in which a letter for its class replaces each
# character, because `re` knows no Unicode categories: U upper and title case, L lower case, B other
# letters, M marks, N numbers, R line ends, _ the space, W other white space, / itself, P all else.
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
    """An encoder of text with the merges of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        """Return the rank of each token by its bytes; merges of lower rank are applied first."""
        return {piece: rank for rank, piece in enumerate(self.tokenizer.pieces)}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Raises:
            UsageError: it has a byte without a token, or a lone surrogate.
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
        """Return the ranks of the tokens that a piece, UTF-8, is merged into.

        Again and again the two neighbouring parts whose joint token has the lowest rank are joined,
        the first two if ranks are equal. With a heap the time is nearly proportional to the length.
        """
        if piece in self.ranks:
            return [self.ranks[piece]]

        # Begin with single bytes, in a doubly linked list
        size = len(piece)
        parts = [piece[at : at + 1] for at in range(size)]  # empty once joined to the one before
        before, after = list(range(-1, size - 1)), list(range(1, size + 1))

        def rank_with_next(at: int) -> int | None:
            return self.ranks.get(parts[at] + parts[after[at]]) if after[at] < size else None

        # Join neighbours, lowest rank first
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

        # Look up what is left
        parts = [part for part in parts if part]
        if missing := [part for part in parts if part not in self.ranks]:
            raise UsageError(
                f"{piece.decode()!r}: the tokenizer has no token for the byte {missing[0]!r}"
            )
        return [self.ranks[part] for part in parts]


def split(text: str) -> Iterator[str]:
    """Yield the pieces of a text, between which nothing is merged.

    Source: the pattern in tekken.json.
    """
    classes = "".join(_EXCEPTIONS.get(character) or _class_of(character) for character in text)
    for match in _PIECES.finditer(classes):
        yield text[match.start() : match.end()]


def _class_of(character: str) -> str:
    return _CLASSES.get(unicodedata.category(character), "P")
