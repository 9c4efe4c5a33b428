"""Who feeds a stream and who reads it: threads in turns, and `async for` in any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from weakref import WeakSet

from ..errors import VoxtralOnnxError
from .tokens import Token


class Reader:
    """What one `async for` takes its tokens from; tasks may share it."""

    def __init__(self):
        """Begin to read in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue[Token | BaseException | None]()

    def put(self, item: Token | BaseException | None) -> None:
        """Hand over a token, an error, or None for the end, from any thread."""
        # A loop that is closed has nobody who reads, which is no matter of who feeds
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Token:
        item = await self._queue.get()
        if isinstance(item, Token):
            return item
        self._queue.put_nowait(item)  # for the next that asks
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        raise VoxtralOnnxError("the thread that feeds the stream was interrupted") from item


class Feeding:
    """The turns of one stream's threads, and its readers, which are told what happens in them."""

    def __init__(self, require_own_process: Callable[[], None]):
        """`require_own_process`: raises where the stream was opened by another."""
        self._require_own_process, self._lock = require_own_process, Lock()
        self._readers, self._readers_lock = WeakSet[Reader](), Lock()
        self._coming: Iterator[Token] | None = None  # begun, and not all taken yet
        self.failure: BaseException | None = None  # of a step; nothing goes on behind it
        self._refusal: Exception | None = None  # of samples; until others are taken

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other threads out.

        Raises:
            Exception: the one that a step has raised before.
            UsageError: the stream is another process's.
        """
        with self._lock:
            self._require_own_process()
            if isinstance(self.failure, Exception):
                raise self.failure
            if self.failure is not None:
                raise VoxtralOnnxError(
                    "the stream was interrupted in a step and cannot go on; open another with "
                    "Transcriber.stream(), or Transcriber.load_stream() of what was saved"
                ) from self.failure
            yield

    def tokens(self, begin: Callable[[], Iterator[Token]]) -> Iterator[Token]:
        """Yield the tokens that are to come, a turn for each.

        `begin` returns them where none are left of what was begun before and not taken.
        """
        while True:
            with self.turn():
                self._coming = self._coming or begin()
                try:
                    token = next(self._coming, None)
                except BaseException as error:  # in a step: nothing could go on from there
                    self.failure = error
                    self.publish(error)
                    raise
                if token is None:
                    self._coming = None
                    return
            yield token

    def refuse(self, error: Exception) -> None:
        """Tell readers, and those to come, that samples are refused, whose feeder may end of it."""
        self._refusal = error
        self.publish(error)

    def go_on(self) -> None:
        """Take it that the feeder goes on behind what was refused."""
        self._refusal = None

    def reader(self) -> Reader:
        """Return a reader of what is published from now on; its owner alone keeps it."""
        reader = Reader()
        with self._readers_lock:
            self._readers.add(reader)
            error = self.failure or self._refusal
        if error is not None:
            reader.put(error)
        return reader

    def publish(self, item: Token | BaseException | None) -> None:
        """Hand a token, an error, or None for the end to all readers."""
        with self._readers_lock:
            readers = list(self._readers)
        for reader in readers:
            reader.put(item)
