"""Mistral's tokenizer file `tekken.json`, decoded for exporter and runtime.

Ids below `default_num_special_tokens` are special tokens; the others are ranks in `vocab`, which
may list more tokens than the model has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from .config import Rate
from .decode import Name, Size, decode


class Piece(Struct, frozen=True, gc=False):
    """A text token and its bytes."""

    rank: int
    token_bytes: Annotated[bytes, Meta(min_length=1, max_length=256)]  # the longest has 78


class SpecialToken(Struct, frozen=True, gc=False):
    """A special token, which has a name instead of bytes."""

    rank: int
    token_str: Name


class Numbers(Struct, frozen=True):
    """The sizes of the vocabulary, and the pattern that splits text before BPE."""

    default_vocab_size: Size
    default_num_special_tokens: Annotated[int, Meta(ge=0, le=1 << 16)]
    pattern: Annotated[str, Meta(max_length=10_000)] | None = None  # a regular expression


class Audio(Struct, frozen=True):
    """The constants of streaming audio."""

    sampling_rate: Rate
    transcription_delay_ms: Annotated[float, Meta(ge=0, le=60_000)]
    streaming_n_left_pad_tokens: Annotated[int, Meta(ge=0, le=1 << 16)]


class Tekken(Struct, frozen=True):
    """The content of `tekken.json`."""

    config: Numbers
    vocab: Annotated[list[Piece], Meta(max_length=1 << 20)]
    special_tokens: Annotated[list[SpecialToken], Meta(max_length=1 << 16)] = []
    audio: Audio | None = None  # absent from the tokenizers of text models

    def __post_init__(self):
        special, size = self.config.default_num_special_tokens, self.config.default_vocab_size
        if not special <= size <= special + len(self.vocab):
            raise ValueError(
                f"{special} special and {len(self.vocab)} text tokens do not make {size}"
            )
        if any(piece.rank != rank for rank, piece in enumerate(self.vocab)):
            raise ValueError("vocab: expected the ranks 0, 1, 2 …")
        if len({piece.token_bytes for piece in self.vocab}) != len(self.vocab):
            raise ValueError("vocab: a token appears twice")
        ranks = {token.rank for token in self.special_tokens}
        names = {token.token_str for token in self.special_tokens}
        if len(ranks) != len(self.special_tokens) or len(names) != len(ranks):
            raise ValueError("special_tokens: a rank or a name appears twice")
        if not ranks <= {*range(special)}:
            raise ValueError(f"special_tokens: expected ranks from 0 to {special - 1}")

    @classmethod
    def decode(cls, content: bytes, error: Callable[[str], Exception]) -> Tekken:
        """Decode and check the content of a file, with the errors of `decode.decode`."""
        return decode(cls, content, error)

    @property
    def pieces(self) -> list[bytes]:
        """Return the bytes of the text tokens that the model has, by rank."""
        count = self.config.default_vocab_size - self.config.default_num_special_tokens
        return [piece.token_bytes for piece in self.vocab[:count]]

    @property
    def names(self) -> list[str]:
        """Return the names of the special tokens, by id."""
        named = {token.rank: token.token_str for token in self.special_tokens}
        return [
            named.get(rank, f"<SPECIAL_{rank}>")
            for rank in range(self.config.default_num_special_tokens)
        ]
