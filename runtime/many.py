"""The engine for many: hundreds of live streams on one device, and files in the time they leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any
from weakref import WeakValueDictionary

from ..arguments import INTEGER, Uncopied, accepts, optional, whole
from ..errors import DeviceError, UsageError
from ..limits import MOST_STREAMS
from .audio.files import AudioSource
from .channels import join_channels
from .device.cache import check_context, decoder_cache_spec
from .engine.capacity import SHARE, capacity, cost_curve
from .engine.encoders.live_encoder import open_live_encoder
from .engine.live import LiveRecording, Ticker
from .engine.recording import PieceRun
from .engine.sizes import slot_sizes
from .engine.stream import EngineStream
from .engine.written import Burst, End, Event, Failure
from .hotwords import DEFAULT_BIAS
from .kept import NOTHING
from .opening import open_sources
from .options import AUTO, BATCH_SIZE, DELAY
from .pieces.piece import Piece
from .stream import silent_start
from .tokens import Token
from .transcriber import Transcriber
from .transcript import Transcript
from .writer import TokenWriter, new_sampler

_log = logging.getLogger(__name__)

DEFAULT_CONTEXT = 1024  # positions, 82 s: what a live stream sees of its past
TICKS = (80, 160)  # milliseconds
DRAIN_SECONDS = 30.0  # for which `close` waits for streams to end


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Up-to-date figures of an engine."""

    streams: int  # open
    capacity: int  # streams that may be open
    ticks: int  # so far
    late_ticks: int  # that took longer than a tick lasts
    tick_p50: float  # seconds from when a tick was due until its tokens were decoded, recent ones
    tick_p99: float
    encode_seconds: float  # of live streams
    decode_seconds: float  # of all calls of the decoder
    steps: int  # calls of the decoder


class Engine(Uncopied):
    """Live streams and files that share one device.

    Every 80 ms, a *tick*, the encoder takes what has come of all live streams in one call, and the
    decoder advances all of them in another. Files fill the slots and the time that are left. A
    stream beyond what the device carries in real time, which is measured at the start, is refused.

    ```python
    with Engine("tiny") as engine, engine.open() as stream:
        stream.feed(samples)
        stream.finish()
        print("".join(token.text for token in stream.events))
    ```
    """

    @accepts(
        slots=BATCH_SIZE,
        tick_ms=INTEGER,
        most_streams=optional(whole(0, MOST_STREAMS)),
    )
    def __init__(
        self,
        model: Transcriber | str | Path | None = None,
        *,
        slots: int | str = AUTO,
        context: int = DEFAULT_CONTEXT,
        tick_ms: int = 80,
        most_streams: int | None = None,
    ):
        """Start the engine's threads, and measure how many streams the device carries.

        Args:
            model: a transcriber, whose options hold for all streams and which is not closed with
                the engine; or what `Transcriber` takes as its model, on its default device.
            slots: of the decoder, for streams and files; "auto" for as many as fit into memory and
                suit the device.
            context: how many past positions of 80 ms the decoder sees.
            tick_ms: 80, or 160, which halves the encoder's work for each stream and makes text 40
                ms later.
            most_streams: streams that may be open at a time, even if they do not keep up with
                speech; None for as many as do.

        Raises:
            ArtifactError, StorageError: as for `Transcriber`.
            DeviceError: the same, or the device does not advance several streams at a time.
            UsageError: an option has a value that it cannot have.
        """
        # Load the model
        if tick_ms not in TICKS:
            raise UsageError(f"tick: expected 80 or 160 ms, got {tick_ms}")
        check_context(context)
        self._owns_transcriber = not isinstance(model, Transcriber)
        self.transcriber = model if isinstance(model, Transcriber) else Transcriber(model)
        loaded, options = self.transcriber.model, self.transcriber.options
        if not loaded.device.supports_batching:
            raise DeviceError(
                f"engine: streams advance together on CPU and CUDA, not on {loaded.device.name}; "
                "use Transcriber.stream() there"
            )

        # Make slots, and start the threads
        self.notes, manifest = list[str](), loaded.manifest
        num_notes = len(loaded.device.notes)
        spec = decoder_cache_spec(manifest, context)
        count = None if slots == AUTO else int(slots)
        sizes = slot_sizes(loaded, count, self.notes, spec, has_live=True)
        start = silent_start(loaded, options.num_delay_tokens, None)
        self._samples = start.arrays["samples"]
        audio = manifest.config.audio
        tick_tokens = tick_ms * audio.sample_rate // (1000 * audio.samples_per_token)
        open_encoder = partial(
            open_live_encoder, loaded, start=start, notes=self.notes, tick_tokens=tick_tokens
        )
        self.ticker = Ticker(loaded, sizes[-1].count, tick_tokens, open_encoder)
        self._model, self._factory = loaded, self.transcriber.recordings(options)
        self._loop = self._factory.loop(sizes, self.ticker)
        self._events = self._loop.queue()
        self._lock, self._is_closed = Lock(), False
        self._streams = WeakValueDictionary[LiveRecording, EngineStream]()
        self._failure: Failure | None = None
        self._texts = Thread(target=self._write, name="text", daemon=True)
        self._texts.start()

        # Measure how many streams keep up
        self.curve = dict[int, float]()  # seconds of a tick by its number of streams
        try:
            most = self._loop.prepare_live()
            self.capacity = self._measure(most) if most_streams is None else min(most_streams, most)
        except BaseException:
            self.close(0.0)
            raise
        self.notes += loaded.device.notes[num_notes:]
        for note in self.notes:
            _log.info("engine: %s", note)
        _log.info("engine: %d live streams at a time", self.capacity)

    def __repr__(self) -> str:
        state = ", closed" if self._is_closed else ""
        return (
            f"<Engine of {self.transcriber!r}: {self._num_open} of {self.capacity} streams{state}>"
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error) -> None:
        self.close(0.0 if error[0] else DRAIN_SECONDS)

    def close(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Refuse new streams, wait for those that are open to end, and stop the threads.

        Streams that have not ended after `drain_seconds` end with an error, and so do files.
        Feeders must finish their streams, which the engine does not do for them.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        deadline = monotonic() + drain_seconds
        while any(stream.is_open for stream in self._known) and monotonic() < deadline:
            sleep(self.ticker.seconds / 4)
        self._loop.close()
        self._texts.join()
        self.ticker.close()
        if self._owns_transcriber:
            self.transcriber.close()

    @property
    def failure(self) -> BaseException | None:
        """Return the error that has ended the engine; None while it runs."""
        return self._loop.failure

    @property
    def metrics(self) -> EngineMetrics:
        """Return up-to-date figures."""
        ticks, work = self.ticker.metrics, self._factory.work
        return EngineMetrics(
            streams=self._num_open,
            capacity=self.capacity,
            ticks=ticks.num_ticks,
            late_ticks=ticks.num_late,
            tick_p50=ticks.percentile(50),
            tick_p99=ticks.percentile(99),
            encode_seconds=ticks.encode_seconds,
            decode_seconds=work.decode,
            steps=work.steps,
        )

    @accepts(delay_ms=DELAY)
    def open(
        self,
        delay_ms: int | None = None,
        hotwords: Iterable[str] | None = None,
        hotword_bias: float = DEFAULT_BIAS,
    ) -> EngineStream:
        """Open a live stream.

        Args:
            delay_ms: milliseconds by which its text follows the audio, a multiple of 80 up to 2400;
                None for the transcriber's.
            hotwords: words and phrases that are made likelier; None for the transcriber's.
            hotword_bias: added to the logits of their tokens, 0 to 20.

        Raises:
            DeviceError: the device carries no more streams, or the engine has failed.
            UsageError: the engine is closed, the model does not have this delay, or hotwords cannot
                be.
        """
        # Make its recording
        options = self.transcriber.stream_options(delay_ms, hotwords, hotword_bias)
        prefix = self._loop.prefix(options.num_delay_tokens, is_live=True)
        with self._lock:
            self._require_room()
            left = self._model.manifest.streaming.left_pad_tokens
            start = silent_start(self._model, options.num_delay_tokens, None)
            first = start.position.decoder
            recording = LiveRecording(
                prefix,
                options.num_delay_tokens,
                first,
                self._events,
                stop_at_eos=False,
                num_encoded=first,
                samples=self._samples,
            )
            piece = Piece(left, options.num_delay_tokens)
            sampler = new_sampler(self._model.facts, options)
            recording.runs.append(PieceRun(recording, piece, first, (), sampler))

            # Make the stream, which ends itself in the engine
            writer = TokenWriter(self._model.facts, options)
            loop = self._loop
            close, forget = partial(loop.fail, recording), partial(loop.forget_recording, recording)
            stream = EngineStream(recording, writer, close, forget)
            self._streams[recording] = stream
        self._loop.add(recording)
        return stream

    @property
    def _known(self) -> list[EngineStream]:
        """Return all streams that somebody holds."""
        with self._lock:
            return list(self._streams.values())

    @property
    def _num_open(self) -> int:
        return len(self.ticker.recordings)

    def _require_room(self) -> None:
        """Refuse a stream that would make ticks late.

        Raises:
            DeviceError: the device carries no more streams, or the engine has failed.
            UsageError: the engine is closed.
        """
        if self._is_closed:
            raise UsageError("the engine is closed")
        if self._failure:
            raise DeviceError(f"the engine has failed: {self._failure.error}")
        num_open, device = self._num_open, self.transcriber.device_name
        if num_open >= self.capacity or not self.ticker.has_room:
            raise DeviceError(
                f"engine: {num_open} live streams are open, and {device} carries {self.capacity} "
                "of them; try again when one has ended, or on another device"
            )
        if self.curve and (late := self.ticker.late_seconds):
            raise DeviceError(
                f"engine: the last ticks of {num_open} live streams took {1000 * late:.0f} ms, and "
                f"a tick lasts {1000 * self.ticker.seconds:.0f}: {device} is busy; try again later"
            )

    def transcribe_many(
        self,
        audio: Iterable[Any],
        *,
        delay_ms: int | None = None,
        hotwords: Iterable[str] | None = None,
        hotword_bias: float = DEFAULT_BIAS,
        gain: str = "none",
        channels: str = "mix",
        split: bool = True,
        on_token: Callable[[AudioSource, Token], None] = lambda source, token: None,
        on_progress: Callable[[AudioSource, float], None] = lambda source, seconds: None,
    ) -> Iterator[Transcript]:
        """Transcribe recordings in the slots and the time that live streams leave.

        The arguments are those of `Transcriber.transcribe_many` and of `open`, and so are the
        errors. Several threads may do so at a time. A transcript that nobody takes any more,
        because the iterator is closed, frees its slots.
        """
        options = self.transcriber.stream_options(delay_ms, hotwords, hotword_bias)
        factory = self.transcriber.recordings(options)
        sources = open_sources(
            iter(audio), self.transcriber.sample_rate, gain=gain, channels=channels
        )

        def together(sources: Iterator[AudioSource]) -> Iterator[Transcript]:
            return factory.many(
                sources,
                None,
                splits=split,
                on_token=on_token,
                on_progress=on_progress,
                kept=lambda source: NOTHING,
                loop=self._loop,
            )

        return join_channels(sources, together)

    def _measure(self, most: int) -> int:
        """Return how many streams keep up with speech."""
        seconds = self.ticker.seconds
        self.curve = cost_curve(self._loop.seconds_of_tick, most, beyond=seconds)
        return capacity(self.curve, SHARE * seconds)

    def _write(self) -> None:
        """Make text of what the engine decodes, until the engine is closed or has failed."""
        while self._failure is None:
            self._take(self._events.get())

    def _take(self, event: Event) -> None:
        """Let the stream take an event that is concerned, or all."""
        if isinstance(event, Failure) and event.recording is None:
            self._failure = event
            for stream in self._known:
                stream.take(event)
            return
        recording = event.recording if isinstance(event, Failure) else None
        if isinstance(event, Burst | End):
            recording = event.run.recording
        if isinstance(recording, LiveRecording) and (stream := self._streams.get(recording)):
            try:
                stream.take(event)
            except Exception as error:
                self._loop.fail(recording, error)
