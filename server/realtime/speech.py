"""One client's speech in an engine: bytes in as they come, events out as they are known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...limits import KB
from ...runtime.engine.stream import EngineStream
from ...runtime.live.events import Event
from ...runtime.live.session import LiveSession
from ...runtime.live.turns import TurnRules
from ..engines import Engines
from .sound import SoundFormat, SoundReader

PIECE = 64 * KB  # of a message that is converted at once: a long one waits for the engine


@dataclass(frozen=True, slots=True)
class Flushed:
    """A flush whose words have all come, with their segments."""

    number: int  # of the flush, from 0


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """The wishes of a client, said before it speaks."""

    sound: SoundFormat
    delay_ms: int | None = None  # None for the server's
    hotwords: Sequence[str] = ()
    turns: TurnRules | None = None  # None: the client says when a turn ends


SpeechEvent = Event | Flushed


class LiveSpeech:
    """The speech of one client: a stream of an engine, and a session around it.

    One task appends and flushes; another iterates the events: a `Token` for every 80 ms, most of
    them without text, and what follows from them. It ends when the stream has, or raises the error
    that has ended it. All of it belongs to one event loop.
    """

    def __init__(self, stream: EngineStream, options: SpeechOptions, sample_rate: int):
        """Begin a session; called by `open`."""
        self.stream, self._reader = stream, SoundReader(options.sound, sample_rate)
        self._session = LiveSession(stream, self._note, turns=options.turns, flush=stream.flush)
        self._noted = list[Event]()  # by the session, of one token or one piece
        self._events = asyncio.Queue[SpeechEvent | Exception | None]()
        self._marks = list[tuple[int, int]]()  # of flushes: tokens until then, number
        self._num_flushes = 0
        self._heard_at = asyncio.get_running_loop().time()  # when the last sound had come
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, engines: Engines, options: SpeechOptions) -> LiveSpeech:
        """Open a stream on the device that has most room.

        Raises:
            ApiError: the server is about to end, an engine has failed, or all streams are taken.
            UsageError: the model does not have the delay, or hotwords cannot be.
        """
        opening = asyncio.create_task(
            asyncio.to_thread(engines.open_stream, options.delay_ms, options.hotwords)
        )
        try:
            stream = await asyncio.shield(opening)
        except asyncio.CancelledError:  # the client has left meanwhile
            opening.add_done_callback(_close_opened)
            raise
        return cls(stream, options, engines.sample_rate)

    @property
    def seconds(self) -> float:
        """Return how much sound has come, in seconds."""
        return self._session.metrics.captured

    @property
    def silence(self) -> float:
        """Return for how long no sound has come, in seconds."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def append(self, content: bytes) -> None:
        """Take the next bytes of sound; wait while much of it waits for the engine.

        Raises:
            AudioError: some samples are not finite; they and what follows are left out.
            Exception: what has ended the stream.
        """
        for first in range(0, len(content), PIECE):
            await self._feed(self._reader.read(content[first : first + PIECE]))
        self._heard_at = asyncio.get_running_loop().time()

    async def flush(self) -> int:
        """Let all words spoken so far come at once, then `Flushed` with the number returned.

        Raises:
            AudioError: the sound ends inside a sample; the words before it come all the same.
            Exception: what has ended the stream.
        """
        number = self._num_flushes
        self._num_flushes += 1
        await self._feed(self._reader.finish())
        await self._pass(self._session.release())
        self._marks.append((self.stream.flush(), number))
        self._reader.require_whole()
        return number

    async def finish(self) -> None:
        """End the sound; the last words follow, then the events end.

        Raises:
            AudioError: the sound ends inside a sample; the words before it come all the same.
        """
        await self._feed(self._reader.finish())
        await self._pass(self._session.end_audio())
        self.stream.finish()
        self._reader.require_whole()

    def close(self) -> None:
        """End at once, and free the slot."""
        self.stream.close()
        self._task.cancel()

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """Yield the events.

        Raises:
            Exception: what has ended the stream before its end.
        """
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    async def _feed(self, samples: np.ndarray) -> None:
        if len(samples):
            await self._pass(self._session.take(samples))

    async def _pass(self, samples: np.ndarray) -> None:
        """Feed the stream; where a turn ends, it is flushed."""
        for piece in self._session.pieces(samples):
            self._tell()
            await self.stream.feed_async(piece)
        self._tell()

    async def _read(self) -> None:
        """Take the tokens of the stream, and tell what follows from them."""
        try:
            async for token in self.stream.events:
                self._session.accept_token(token)
                if not token.text:
                    self._events.put_nowait(token)
                self._tell()
                while self._marks and self._marks[0][0] <= token.index + 1:
                    self._session.end_segment()
                    self._tell()
                    self._events.put_nowait(Flushed(self._marks.pop(0)[1]))
            self._session.end()
            self._tell()
            self._events.put_nowait(None)
        except Exception as error:
            self._events.put_nowait(error)

    def _note(self, event: Event) -> None:
        self._noted.append(event)

    def _tell(self) -> None:
        for event in self._noted:
            self._events.put_nowait(event)
        self._noted.clear()


def _close_opened(opening: asyncio.Task[EngineStream]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
