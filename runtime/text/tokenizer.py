"""Token ids to text."""

from __future__ import annotations

import base64
import codecs
import json
from pathlib import Path

from ...errors import ArtifactError
from ...manifest import Tokens


class Tokenizer:
    """The bytes of every text token, from `tekken.json`."""

    def __init__(self, path: Path, tokens: Tokens):
        try:
            values = json.loads(path.read_bytes())
            self.pieces = [base64.b64decode(entry["token_bytes"]) for entry in values["vocab"]]
            config = values["config"]
            # That the model has
            self.num_ranks = config["default_vocab_size"] - config["default_num_special_tokens"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path}: not a readable Tekken tokenizer ({error!r}); export again"
            ) from error
        self.first_text = tokens.first_text

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
