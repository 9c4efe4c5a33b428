"""The engines of a server, one a device, and the requests that share them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock
from time import perf_counter
from typing import BinaryIO, Generic, Protocol, TypeVar

from ..errors import DeviceError
from ..runtime.audio.files import AudioSource
from ..runtime.delay import untrained_delay
from ..runtime.engine.stream import EngineStream
from ..runtime.many import Engine
from ..runtime.text.tokenizer import Tokenizer
from ..runtime.tokens import Token
from ..runtime.transcript import Transcript
from .api_error import ApiError, refusal_of
from .metrics import Counters
from .uploads.opening import open_upload
from .uploads.untrusted import MOST_SECONDS, Decoders

log = logging.getLogger(__name__)

AT_CAPACITY = "at_capacity"  # the code of an error: all live streams are taken
MOST_AT_ONCE = 64  # recordings that are read and decoded; further ones wait
Result = TypeVar("Result")


class Engines:
    """The engines of a server; each recording goes to the one that has the fewest."""

    def __init__(
        self,
        engines: Sequence[Engine],
        most_at_once: int = MOST_AT_ONCE,
        most_seconds: float = MOST_SECONDS,
    ):
        """Share engines of the same artifact, which are closed with this object.

        Args:
            engines: one for each device.
            most_at_once: recordings that are read and decoded; further ones wait.
            most_seconds: of sound in a recording.
        """
        self.decoders, self.most_seconds = Decoders(), most_seconds
        self.engines, self.counters = tuple(engines), Counters()
        self.is_draining = False
        self.live = set[LiveClient]()  # connections, which have their own ways to end
        self._lock, self._works = Lock(), set[Work]()
        self._running = dict.fromkeys(self.engines, 0)
        self._threads = ThreadPoolExecutor(most_at_once, "request")

    @property
    def sample_rate(self) -> int:
        """Return the model's sample rate in Hz."""
        return self.engines[0].transcriber.sample_rate

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer."""
        return self.engines[0].transcriber.tokenizer

    @property
    def failure(self) -> str | None:
        """Return which engine has failed and why; None while all run."""
        for engine in self.engines:
            if engine.failure:
                return f"{engine.transcriber.device_name}: the engine has failed: {engine.failure}"
        return None

    @property
    def num_running(self) -> int:
        """Return the number of recordings that are decoded."""
        return sum(self._running.values())

    @property
    def num_open(self) -> int:
        """Return the number of requests that have not ended."""
        return len(self._works)

    @property
    def num_waited_for(self) -> int:
        """Return the number of recordings and live connections that have not ended."""
        return self.num_open + len(self.live)

    def require_ready(self) -> None:
        """Refuse requests where none can be begun.

        Raises:
            ApiError: an engine has failed, or the server is about to end.
        """
        if reason := self.failure:
            raise ApiError(f"{reason}; try again when the server has started anew", status=503)
        if self.is_draining:
            raise ApiError("the server is about to end; try again later", status=503)

    def begin(
        self,
        content: BinaryIO,
        make: Callable[[Transcript, list[Token]], Result],
        *,
        channels: str = "mix",
        hotwords: Sequence[str] = (),
        is_prompt: bool = False,
    ) -> Work[Result]:
        """Begin to transcribe a recording; called by a task.

        Args:
            content: of its file; copied, so that it may be closed when the work has ended.
            make: makes the result of the transcript and its tokens of text, in a thread.
            channels: "mix", "left", "right" or "split".
            hotwords: words and phrases that are made likelier.
            is_prompt: whether text is wanted soon, rather than all of it soon: long recordings are
                not cut into pieces, of which later ones are decoded with the first.

        Raises:
            ApiError: the server is not ready.
        """
        self.require_ready()
        work = Work(self, content, make, channels, hotwords, is_prompt)
        self._works.add(work)
        self._threads.submit(work.run)
        return work

    def ended(self, work: Work) -> None:
        """Forget a recording."""
        self._works.discard(work)

    def open_stream(
        self, delay_ms: int | None = None, hotwords: Sequence[str] = ()
    ) -> EngineStream:
        """Open a live stream on the device that has most room; may take a moment.

        Raises:
            ApiError: the server is not ready, or all streams are taken.
            UsageError: the model does not have this delay, or hotwords cannot be.
        """
        self.require_ready()
        refusal: DeviceError | None = None
        for engine in sorted(self.engines, key=lambda each: each.metrics.streams - each.capacity):
            try:
                return engine.open(delay_ms, hotwords or None)
            except DeviceError as error:
                refusal = error
        raise ApiError(f"{refusal}", status=503, code=AT_CAPACITY) from refusal

    def check_stream(self, delay_ms: int | None = None, hotwords: Sequence[str] = ()) -> str | None:
        """Refuse what no live stream can have; may take a moment.

        Returns:
            a warning, if the model was not trained with this delay.

        Raises:
            UsageError: as `open_stream`.
        """
        transcriber = self.engines[0].transcriber
        options = transcriber.stream_options(delay_ms, hotwords or None)
        return untrained_delay(transcriber.manifest, options.num_delay_tokens)

    @contextmanager
    def taken(self) -> Iterator[Engine]:
        """Give the least busy engine for one recording."""
        with self._lock:
            running = [each for each in self.engines if not each.failure] or self.engines
            engine = min(running, key=lambda each: self._running[each] + each.metrics.streams)
            self._running[engine] += 1
        try:
            yield engine
        finally:
            with self._lock:
                self._running[engine] -= 1

    def stop(self) -> None:
        """End all recordings and live connections with an error; called by the event loop."""
        self._stop_works()
        for client in list(self.live):
            client.stop()

    def _stop_works(self) -> None:
        for work in list(self._works):
            work.stop(ApiError("the server ended before the recording did", status=503))

    def close(self) -> None:
        """End all recordings, and close the engines; live connections have ended before."""
        self.is_draining = True
        self._stop_works()
        self._threads.shutdown()
        self.decoders.close()
        for engine in self.engines:
            engine.close(0.0)


class LiveClient(Protocol):
    """A client that speaks, as the end of the server needs it."""

    def move(self) -> None:
        """Let its words so far come, and tell it to connect to another server."""
        ...

    def stop(self) -> None:
        """End its connection with an error."""
        ...

    async def stopped(self) -> None:
        """Wait until it was told, or long enough."""
        ...


class StoppedError(Exception):
    """A request whose answer nobody wants any more."""


class Work(Generic[Result]):
    """One recording that a thread transcribes for a task.

    The task awaits `opened`, iterates `tokens` and then has `result`; whatever it does, it must
    call `stop` in the end.
    """

    def __init__(
        self,
        engines: Engines,
        content: BinaryIO,
        make: Callable[[Transcript, list[Token]], Result],
        channels: str,
        hotwords: Sequence[str],
        is_prompt: bool,
    ):
        """Prepare the work; called by `Engines.begin`."""
        self._engines, self._content, self._make = engines, content, make
        self._channels, self._hotwords, self._is_prompt = channels, hotwords, is_prompt
        self._loop = asyncio.get_running_loop()
        self._messages = asyncio.Queue[AudioSource | Token | Exception | None]()
        self._stopped, self._texts = Event(), list[Token]()
        self.source: AudioSource | None = None
        self.result: Result | None = None

    async def opened(self) -> AudioSource:
        """Wait until the recording has been read once, and return it.

        Raises:
            Exception: why it cannot be.
        """
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, AudioSource)
        return message

    async def tokens(self, every: float | None = None) -> AsyncIterator[Token | None]:
        """Yield the tokens of text; afterwards there is `result`.

        Args:
            every: seconds without a token after which None is yielded.

        Raises:
            Exception: why the recording was not transcribed to its end.
        """
        while True:
            try:
                async with asyncio.timeout(every):
                    message = await self._messages.get()
            except TimeoutError:
                yield None
                continue
            if message is None:
                return
            if isinstance(message, Exception):
                raise message
            assert isinstance(message, Token)
            yield message

    async def finish(self) -> Result:
        """Wait until all of an opened recording is done, and return the result.

        Raises:
            Exception: why the recording was not transcribed to its end.
        """
        async for _ in self.tokens():
            pass
        assert self.result is not None
        return self.result

    def stop(self, error: Exception | None = None) -> None:
        """Stop the work, unless it has ended; a task that waits gets the error."""
        self._stopped.set()
        if error:
            self._tell(error)

    def run(self) -> None:
        """Do the work, in a thread."""
        counters, message = self._engines.counters, None
        try:
            with tempfile.TemporaryDirectory(prefix="voxtral-onnx-") as folder:
                self._require_wanted()
                path = Path(folder) / "recording"  # without a name of the client's
                self._content.seek(0)
                with path.open("wb") as copy:
                    shutil.copyfileobj(self._content, copy)
                self._transcribe(path)
            counters.requests.labels("ok").inc()
        except StoppedError:
            counters.requests.labels("stopped").inc()
        except Exception as error:
            if self._stopped.is_set():
                counters.requests.labels("stopped").inc()
            else:
                message = self._told(error)
                counters.requests.labels("refused" if message.status < 500 else "failed").inc()
        finally:
            self._engines.ended(self)
            self._tell(message)

    def _transcribe(self, path: Path) -> None:
        # Read it
        engines, counters = self._engines, self._engines.counters
        source = open_upload(
            engines.decoders,
            path,
            engines.sample_rate,
            channels=self._channels,
            most_seconds=engines.most_seconds,
            closed=self._stopped,
        )
        self.source = source
        self._tell(source)

        # Transcribe it
        self._require_wanted()
        with engines.taken() as engine:
            began = perf_counter()
            (transcript,) = self._transcripts(engine, source)
            self.result = self._make(transcript, self._texts)

            # Count
            seconds, info = perf_counter() - began, transcript.info
            counters.audio_seconds.inc(source.duration)
            counters.guards.inc(info["blank_guard"] or 0)
            if source.duration:
                counters.rtf.observe(seconds / source.duration)

    def _transcripts(self, engine: Engine, source: AudioSource) -> Iterator[Transcript]:
        """Yield the transcript of a recording when it is whole."""
        return engine.transcribe_many(
            [source],
            hotwords=self._hotwords or None,
            split=not self._is_prompt,
            on_token=self._take,
            on_progress=lambda source, seconds: self._require_wanted(),
        )

    def _take(self, source: AudioSource, token: Token) -> None:
        """Pass a token on; an error ends the recording in the engine and frees its slot.

        Raises:
            StoppedError: nobody wants it.
        """
        self._require_wanted()
        self._engines.counters.tokens.inc()
        if token.text or token.token_id >= self._engines.tokenizer.first_text:
            self._texts.append(token)
            self._tell(token)

    def _require_wanted(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def _told(self, error: Exception) -> ApiError:
        """Return what the client is told of an error: of a failed engine that it has failed."""
        if self._engines.failure and not isinstance(error, ApiError):
            log.error("a request failed: %s: %s", type(error).__name__, error)
            return ApiError("the engine has failed; try again later", status=503)
        return refusal_of(error)

    def _tell(self, message: AudioSource | Token | Exception | None) -> None:
        with suppress(RuntimeError):  # the server's loop has ended
            self._loop.call_soon_threadsafe(self._messages.put_nowait, message)
