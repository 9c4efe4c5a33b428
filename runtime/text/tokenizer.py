"""Token ids to text."""

from __future__ import annotations

import codecs
from pathlib import Path

from ...decode import read_within
from ...errors import ArtifactError
from ...limits import TOKENIZER
from ...manifest import Tokens
from ...tekken import Tekken


class Tokenizer:
    """The bytes of every text token, from `tekken.json`."""

    def __init__(self, path: Path, tokens: Tokens):
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
        """Compare the numbers of tokens with the model's.

        Raises:
            ArtifactError: it has other ones.
        """
        found = self.sizes.default_num_special_tokens, self.sizes.default_vocab_size
        if found != (self.first_text, vocab_size):
            raise ArtifactError(
                f"{self.path}: expected {vocab_size:,} tokens, {self.first_text:,} of them special,"
                f" as in the manifest, got {found[1]:,} and {found[0]:,}; export again"
            )

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes, none for a special token."""
        rank = token_id - self.first_text
        return self.pieces[rank] if rank >= 0 else b""

    def decode(self, token_ids: list[int]) -> str:
        """Text of a whole transcript, without the space that words begin with."""
        return b"".join(map(self.bytes_of, token_ids)).decode("utf-8", "replace").removeprefix(" ")


class TextDecoder:
    """Bytes of successive tokens to text, as soon as characters are whole.

    Bytes are joined before they are decoded: a character may span several tokens with blanks
    between them.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes."""
        return self.utf8.decode(self.tokenizer.bytes_of(token_id))

    @property
    def pending(self) -> bytes:
        """The bytes of a character that is not whole yet."""
        return self.utf8.getstate()[0]

    def restore(self, pending: bytes) -> None:
        """Go on behind the bytes of a character that is not whole yet."""
        self.utf8.setstate((pending, 0))

    def flush(self) -> str:
        """A replacement character where the last one was cut off."""
        return self.utf8.decode(b"", final=True)
