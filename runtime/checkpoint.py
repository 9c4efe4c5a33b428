"""A live stream's state in a file, from which another process goes on and writes the same text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from .decoder import Alternative
from .stream import Stream, Token

if TYPE_CHECKING:
    from .transcribe import Transcriber

CHECKPOINT_SECONDS = 30.0  # between writes; with a full window the 4B model makes a file of up to 1.4 GB


class Checkpoint:
    """One file, written anew every so many seconds, and the stream that it holds.

    It also holds the tokens of text since the stream began, so that what comes from them is written again: the process
    that goes on gives what one that was never killed would have given.
    """

    def __init__(self, path: Path, transcriber: Transcriber, seconds: float = CHECKPOINT_SECONDS):
        """Go on from the file, or begin one; a folder that takes none is found now.

        Raises:
            ArtifactError: not a saved stream, or one of another artifact, precision, delay or context.
            StorageError: the file cannot be written.
        """
        self.path, self._seconds, self._written = path, seconds, perf_counter()
        self.tokens: list[Token] = []
        if path.exists():
            self.stream: Stream = transcriber.load_stream(path)
            self.tokens = [_token(values) for values in self.stream.notes]
        else:
            self.stream = transcriber.stream()
            self.write()

    def add(self, token: Token) -> None:
        """Keep what texts and word groups are made of."""
        ids = self.stream.ids
        if token.token_id == ids.streaming_word or token.token_id >= ids.first_text:
            self.tokens.append(token)

    @property
    def is_due(self) -> bool:
        """Whether so many seconds have passed."""
        return perf_counter() - self._written >= self._seconds

    def write(self) -> None:
        """Replace the file; the stream has decoded all that it was fed.

        Raises:
            StorageError: it cannot be written; the one before stays.
        """
        self._written = perf_counter()
        self.stream.save(self.path, [asdict(token) for token in self.tokens])


def _token(values: dict) -> Token:
    alternatives = tuple(Alternative(**each) for each in values["alternatives"])
    return Token(**{**values, "alternatives": alternatives})
