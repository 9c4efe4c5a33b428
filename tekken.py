"""`tekken.json`: Mistral's tokenizer, as exporter and runtime read it.

Ids below `default_num_special_tokens` are special tokens; those above are ranks in `vocab`, which
may hold more than the model has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from .config import Rate
from .decode import Name, Size, decode


class Piece(Struct, frozen=True, gc=False):
    """A text token."""

    rank: int
    token_bytes: Annotated[bytes, Meta(min_length=1, max_length=256)]  # the longest has 78


class SpecialToken(Struct, frozen=True, gc=False):
    """A token without bytes."""

    rank: int
    token_str: Name


class Numbers(Struct, frozen=True):
    """Sizes, and how text is split."""

    default_vocab_size: Size
    default_num_special_tokens: Annotated[int, Meta(ge=0, le=1 << 16)]
    pattern: Annotated[str, Meta(max_length=10_000)] | None = None  # a regular expression


class Audio(Struct, frozen=True):
    """What the model makes of sound."""

    sampling_rate: Rate
    transcription_delay_ms: Annotated[float, Meta(ge=0, le=60_000)]
    streaming_n_left_pad_tokens: Annotated[int, Meta(ge=0, le=1 << 16)]


class Tekken(Struct, frozen=True):
    """The whole file."""

    config: Numbers
    vocab: Annotated[list[Piece], Meta(max_length=1 << 20)]
    special_tokens: Annotated[list[SpecialToken], Meta(max_length=1 << 16)] = []
    audio: Audio | None = None  # a model without ears has none

    def __post_init__(self):
        special, size = self.config.default_num_special_tokens, self.config.default_vocab_size
        if not special <= size <= special + len(self.vocab):
            raise ValueError(
                f"{special} special and {len(self.vocab)} text tokens do not make {size}"
            )
        if any(piece.rank != rank for rank, piece in enumerate(self.vocab)):
            raise ValueError("vocab: expected the ranks 0, 1, 2 …")
        if len({piece.token_bytes for piece in self.vocab}) != len(self.vocab):
            raise ValueError("vocab: a token is there twice")
        ranks = {token.rank for token in self.special_tokens}
        names = {token.token_str for token in self.special_tokens}
        if len(ranks) != len(self.special_tokens) or len(names) != len(ranks):
            raise ValueError("special_tokens: a rank or a name is there twice")
        if not ranks <= {*range(special)}:
            raise ValueError(f"special_tokens: expected ranks from 0 to {special - 1}")

    @classmethod
    def decode(cls, content: bytes, error: Callable[[str], Exception]) -> Tekken:
        """Decode and check a file; as `decode.decode`."""
        return decode(cls, content, error)

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of the text tokens that the model has, by rank."""
        count = self.config.default_vocab_size - self.config.default_num_special_tokens
        return [piece.token_bytes for piece in self.vocab[:count]]

    @property
    def names(self) -> list[str]:
        """The names of the special tokens, by id."""
        named = {token.rank: token.token_str for token in self.special_tokens}
        return [
            named.get(rank, f"<SPECIAL_{rank}>")
            for rank in range(self.config.default_num_special_tokens)
        ]
