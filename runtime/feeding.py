"""Access to a stream by several threads, one at a time, and by readers with `async for`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from weakref import WeakSet

from ..errors import VoxtralOnnxError
from .tokens import Token


class Reader:
    """An asynchronous iterator over the tokens of a stream; several tasks may share it."""

    def __init__(self):
        """Start reading in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue[Token | BaseException | None]()

    def put(self, item: Token | BaseException | None) -> None:
        """Hand over a token, an error, or None for the end, from any thread."""
        # A closed loop raises RuntimeError; nobody reads any more, which is no error of the feeder
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Token:
        item = await self._queue.get()
        if isinstance(item, Token):
            return item
        self._queue.put_nowait(item)  # for the next call, which must end alike
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        raise VoxtralOnnxError("the thread that feeds the stream was interrupted") from item


class Feeding:
    """The lock of one stream, and its readers, to which all tokens and errors are published."""

    def __init__(self, require_own_process: Callable[[], None]):
        """Make the lock of a new stream.

        Args:
            require_own_process: raises UsageError in a process that did not open the stream.
        """
        self._require_own_process, self._lock = require_own_process, Lock()
        self._readers, self._readers_lock = WeakSet[Reader](), Lock()
        self._coming: Iterator[Token] | None = None  # tokens of a feed that are not all taken yet
        self.failure: BaseException | None = None  # of a step; the stream cannot continue after it
        self._refusal: Exception | None = None  # of invalid samples; None after valid ones

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the stream for this thread in the context, and make other threads wait.

        Raises:
            Exception: the one that an earlier step has raised.
            VoxtralOnnxError: an earlier step was interrupted, for example by Ctrl-C.
            UsageError: another process has opened the stream.
        """
        with self._lock:
            self._require_own_process()
            if isinstance(self.failure, Exception):
                raise self.failure
            if self.failure is not None:
                raise VoxtralOnnxError(
                    "the stream was interrupted in a step and cannot go on; open another with "
                    "Transcriber.stream(), or load a saved one with Transcriber.load_stream()"
                ) from self.failure
            yield

    def tokens(self, begin: Callable[[], Iterator[Token]]) -> Iterator[Token]:
        """Yield the tokens that follow, and hold the stream only while each one is computed.

        Args:
            begin: returns a new iterator over them; called if no iterator from an earlier call has
                tokens left.
        """
        while True:
            with self.turn():
                self._coming = self._coming or begin()
                try:
                    token = next(self._coming, None)
                except BaseException as error:  # a step that ended midway leaves no valid state
                    self.failure = error
                    self.publish(error)
                    raise
                if token is None:
                    self._coming = None
                    return
            yield token

    def refuse(self, error: Exception) -> None:
        """Raise an error about invalid samples in all readers, later ones included.

        The thread that feeds may end because of it, and readers would otherwise wait for ever.
        """
        self._refusal = error
        self.publish(error)

    def go_on(self) -> None:
        """Forget that samples were refused, because valid ones have followed."""
        self._refusal = None

    def reader(self) -> Reader:
        """Return a reader of all that is published from now on; only a weak reference is kept."""
        reader = Reader()
        with self._readers_lock:
            self._readers.add(reader)
            error = self.failure or self._refusal
        if error is not None:
            reader.put(error)
        return reader

    def publish(self, item: Token | BaseException | None) -> None:
        """Pass a token, an error, or None for the end to all readers."""
        with self._readers_lock:
            readers = list(self._readers)
        for reader in readers:
            reader.put(item)
