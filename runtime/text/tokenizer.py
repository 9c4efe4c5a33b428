"""Decoding of token ids to text."""

from __future__ import annotations

import codecs
from pathlib import Path

from ...decode import read_within
from ...errors import ArtifactError
from ...limits import TOKENIZER
from ...manifest import Tokens
from ...tekken import Tekken


class Tokenizer:
    """The bytes of every text token, read from `tekken.json`."""

    def __init__(self, path: Path, tokens: Tokens):
        """Read the file.

        Raises:
            ArtifactError: it is missing or not a Tekken tokenizer.
        """

        def wrong(reason: str) -> ArtifactError:
            return ArtifactError(
                f"{path}: not a readable Tekken tokenizer ({reason}); export again"
            )

        try:
            content = read_within(path, TOKENIZER, wrong)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise wrong(str(error.strerror)) from error
        tekken = Tekken.decode(content, wrong)
        self.path, self.sizes = path, tekken.config
        self.pieces, self.first_text = tekken.pieces, tokens.first_text

    def check_sizes(self, vocab_size: int) -> None:
        """Compare the numbers of all and of special tokens with the model's.

        Raises:
            ArtifactError: they differ.
        """
        found = self.sizes.default_num_special_tokens, self.sizes.default_vocab_size
        if found != (self.first_text, vocab_size):
            raise ArtifactError(
                f"{self.path}: expected {vocab_size:,} tokens, {self.first_text:,} of them special,"
                f" as in the manifest, got {found[1]:,} and {found[0]:,}; export again"
            )

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token, which are empty for a special token."""
        rank = token_id - self.first_text
        return self.pieces[rank] if rank >= 0 else b""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of a whole transcript, without the space before its first word."""
        return b"".join(map(self.bytes_of, token_ids)).decode("utf-8", "replace").removeprefix(" ")


class TextDecoder:
    """An incremental decoder, which returns characters as soon as all their bytes are there.

    The bytes of a character may be split over several tokens, with blanks between them.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Return the characters that this token completes."""
        return self.utf8.decode(self.tokenizer.bytes_of(token_id))

    @property
    def pending(self) -> bytes:
        """Return the bytes of a character that is not complete yet."""
        return self.utf8.getstate()[0]

    def restore(self, pending: bytes) -> None:
        """Continue after these first bytes of a character."""
        self.utf8.setstate((pending, 0))

    def flush(self) -> str:
        """Return a replacement character if the last character is incomplete, else nothing."""
        return self.utf8.decode(b"", final=True)
