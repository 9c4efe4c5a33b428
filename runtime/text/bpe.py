"""Text to token ids, as Tekken splits and merges it.

The model's prompt needs no text; hotwords do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

from ...errors import UsageError
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
            UsageError: a byte that the tokenizer does not have.
        """
        ids = []
        for piece in split(text):
            ids += [self.tokenizer.first_text + rank for rank in self._merge(piece.encode())]
        return ids

    def _merge(self, piece: bytes) -> list[int]:
        """Ranks of a piece.

        Of two neighbours that have a token together those with the lowest are joined, in turn.
        """
        if piece in self.ranks:
            return [self.ranks[piece]]
        parts = [piece[i : i + 1] for i in range(len(piece))]
        while len(parts) > 1:
            joined = [self.ranks.get(left + right) for left, right in pairwise(parts)]
            found = [rank for rank in joined if rank is not None]
            if not found:
                break
            at = joined.index(min(found))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
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
