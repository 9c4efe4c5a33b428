"""Live transcription of captured audio to tokens, segments, silences and warnings.

A separate thread captures the audio and keeps it until the model takes it, so nothing is lost if
the model falls behind. The stream then takes everything that waits at once, in larger chunks, in
which the encoder is faster.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter

import numpy as np

from ..errors import AudioError
from .audio.following import OffsetFollower
from .audio.samples import check_samples
from .audio.vad import SpeechFilter
from .stream import Stream
from .text.segments import Grouper, Segment, group
from .tokens import Token

RECENT_STEPS = 4096  # tokens whose latency the metrics keep, 5.5 minutes
SILENCE_SECONDS = 2.0  # without text, before a silence is reported
BEHIND_SECONDS = 2.0  # of audio that may wait without a warning
GROWING_SECONDS = 5.0  # for which the audio that waits must have grown before a warning
MUTED_SECONDS = 5.0  # of zero samples, before a warning
CLIPPED = 0.999  # of full scale; the largest value of an audio converter is just below 1


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence, reported once when there was no text for SILENCE_SECONDS."""

    start: float  # end of the last text, in seconds


@dataclass(frozen=True, slots=True)
class StreamWarning:
    """A warning that the speaker should see."""

    text: str


Event = Token | Segment | Silence | StreamWarning


@dataclass(slots=True)
class StreamMetrics:
    """Up-to-date figures of a live stream: how much audio, how late, how much work."""

    captured: float = 0.0  # seconds of audio
    transcribed: float = 0.0  # seconds of audio that the model has taken
    level: float = 0.0  # peak of the last block, full scale 1
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    encode_seconds: float = 0.0  # in the encoder, mel frames included
    decode_seconds: float = 0.0  # in the decoder
    is_paused: bool = False

    @property
    def backlog(self) -> float:
        """Return the seconds of audio that the model has not taken yet."""
        return self.captured - self.transcribed

    @property
    def rtf(self) -> float:
        """Return the real-time factor: seconds of work per second of audio."""
        return self.share(self.encode_seconds + self.decode_seconds)

    def share(self, seconds: float) -> float:
        """Return some seconds of work per second of transcribed audio."""
        return seconds / self.transcribed if self.transcribed else 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the recent latencies, in seconds.

        The latency of a token is the time from the arrival of the last sample that it depends on
        until it is decoded.
        """
        return float(np.percentile(list(self.latencies), percent)) if self.latencies else 0.0

    def summary(self) -> dict[str, float]:
        """Return the figures as JSON has them: duration in seconds, the rest as the names say."""
        latencies = {f"latency_p{p}_ms": round(1000 * self.percentile(p), 1) for p in (50, 95, 99)}
        parts = {"encode_ms": self.encode_seconds, "decode_ms": self.decode_seconds}
        return {
            "duration": round(self.captured, 3),
            "rtf": round(self.rtf, 4),
            **{name: round(1000 * seconds, 1) for name, seconds in parts.items()},
            **latencies,
        }

    def __str__(self) -> str:
        p50, p95, p99 = (1000 * self.percentile(p) for p in (50, 95, 99))
        paused = "PAUSED, " if self.is_paused else ""
        return (
            f"{paused}{self.captured:.1f} s of audio, {self.backlog:.1f} s behind, latency p50 "
            f"{p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms, RTF {self.rtf:.3f} (encoder "
            f"{self.share(self.encode_seconds):.3f}, decoder {self.share(self.decode_seconds):.3f})"
        )


class Capture:
    """Captured audio: a thread takes blocks of samples and notes when each has arrived."""

    def __init__(self, blocks: Iterator[np.ndarray], notes: SimpleQueue[str] | None = None):
        """Start the thread.

        Args:
            blocks: float [n] at the model's rate, full scale 1, as they are recorded.
            notes: a queue to which the source of the blocks adds sentences for the user.
        """
        self._notes = notes or SimpleQueue[str]()
        self._blocks, self._ready = blocks, threading.Condition()
        self._waiting: list[np.ndarray] = []
        self._counts: list[int] = []  # samples captured up to the end of each block
        self._times: list[float] = []  # of its arrival
        self._ended = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Take no more blocks; those captured before can still be iterated."""
        with self._ready:
            self._ended = True
            self._ready.notify()

    @property
    def num_samples(self) -> int:
        """Return the number of samples captured so far."""
        return self._counts[-1] if self._counts else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all samples that wait, joined, as soon as there are some, until the source ends.

        Raises:
            AudioError: the source has raised it; everything captured before was yielded.
        """
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._waiting or self._ended)
                waiting, self._waiting = self._waiting, []
            if waiting:
                yield np.concatenate(waiting)
            elif self._error is not None:
                raise self._error
            else:
                return

    def notes(self) -> Iterator[str]:
        """Yield the sentences that the source has added since the last call."""
        while not self._notes.empty():
            yield self._notes.get()

    def arrival(self, num_samples: int) -> float:
        """Return the time, on the clock of `perf_counter`, at which that many samples had arrived.

        Earlier times are forgotten, so ask for rising numbers only.
        """
        with self._ready:
            at = min(bisect_left(self._counts, num_samples), len(self._counts) - 1)
            del self._counts[:at], self._times[:at]
            return self._times[0]

    def _run(self) -> None:
        try:
            for block in self._blocks:
                samples = check_samples(block)
                with self._ready:
                    if self._ended:
                        return
                    self._waiting.append(samples)
                    self._counts.append(self.num_samples + len(samples))
                    self._times.append(perf_counter())
                    self._ready.notify()
        except BaseException as error:  # raised in the thread that iterates
            self._error = error
        finally:
            self.stop()


def listen(
    stream: Stream,
    capture: Capture,
    metrics: StreamMetrics,
    on_event: Callable[[Event], None],
    speech_filter: SpeechFilter | None = None,
) -> None:
    """Transcribe captured audio until it ends, and report events.

    Args:
        stream: a new one.
        capture: the audio.
        metrics: updated all the time.
        on_event: called with every token that has text at once, with each segment when it is
            complete, with silences and with warnings.
        speech_filter: leaves out words that were written while nobody speaks.

    Raises:
        AudioError: the source has failed; everything captured before was transcribed.
    """
    rate, rules = stream.audio.sample_rate, stream.rules
    text_end, is_silent = 0.0, False
    watch = _Watch(rate)

    def warn(text: str) -> None:
        on_event(StreamWarning(text))

    offset = OffsetFollower(rate, warn)

    # Report what each token means
    def filtered(tokens: Iterator[Token]) -> Iterator[Token]:
        nonlocal text_end, is_silent
        for token in speech_filter.filter(tokens) if speech_filter else tokens:
            needed = (token.index + 1 + stream.num_delay_tokens) * stream.audio.samples_per_token
            needed += rules.look_ahead_samples
            for text in _guard_warnings(stream, token):
                warn(text)
            if token.text:
                on_event(token)
                text_end, is_silent = token.end, False
            elif not is_silent and token.end - text_end > SILENCE_SECONDS:
                on_event(Silence(text_end))
                is_silent = True
            if needed <= stream.num_samples:  # of the audio, not of the silence after it
                metrics.latencies.append(perf_counter() - capture.arrival(needed))
            measure()
            yield token

    def measure() -> None:
        metrics.captured = capture.num_samples / rate
        metrics.transcribed = min(
            metrics.captured, max(0, stream.num_samples - len(stream.samples)) / rate
        )
        metrics.encode_seconds = stream.timings.encode_seconds
        metrics.decode_seconds = stream.timings.decode_seconds

    # Feed the audio, and the end of it
    def fed(samples: np.ndarray) -> Iterator[Token]:
        if speech_filter:
            speech_filter.push(samples)
        return filtered(stream.iter_feed(samples))

    def tokens() -> Iterator[Token]:
        broken: AudioError | None = None
        blocks = iter(capture)
        while True:
            try:
                block = next(blocks, None)
            except AudioError as error:
                block, broken = None, error
            if block is None:
                break
            metrics.level = float(np.abs(block).max(initial=0))
            pace = watch.inspect_pace(metrics, perf_counter())
            for text in (*capture.notes(), *watch.inspect(block), *pace):
                warn(text)
            yield from fed(offset.push(block))
            measure()
        for text in capture.notes():
            warn(text)
        yield from fed(offset.finish())
        yield from filtered(stream.iter_finish())
        if broken is not None:
            raise broken

    # Report segments, which takes all of the above with it
    for segment in group(tokens(), Grouper(stream.ids)):
        on_event(segment)


def _guard_warnings(stream: Stream, token: Token) -> Iterator[str]:
    """Yield warnings about an ignored end-of-text token and about the blank guard."""
    if token.token_id == stream.ids.eos:
        yield (f"the model wrote its end-of-text token at {token.end:.1f} s; a live stream goes on")
    if stream.overrides and stream.overrides[-1].index == token.index:
        yield f"the blank guard chose a word at {token.end:.1f} s (--no-blank-guard: never)"


class _Watch:
    """A watch over the level and the pace of a live stream, which warns once of each problem."""

    def __init__(self, rate: int):
        self.rate, self.reported = rate, set[str]()
        self.zeros = 0  # zero samples in a row up to now
        self.began: float | None = None  # time of the first block
        # Since when audio waits, and how many seconds it was then
        self.behind_since: tuple[float, float] | None = None

    def inspect(self, block: np.ndarray) -> Iterator[str]:
        """Yield warnings about the samples of a block: digital silence, and clipping."""
        edges = np.concatenate(([-1 - self.zeros], np.flatnonzero(block), [len(block)]))
        longest, self.zeros = int(np.diff(edges).max()) - 1, int(edges[-1] - edges[-2]) - 1
        if longest >= MUTED_SECONDS * self.rate:
            yield from self._once(
                f"the input has been digital silence for {MUTED_SECONDS:.0f} s: is it muted?"
            )
        if np.count_nonzero(np.abs(block) >= CLIPPED) > len(block) / 100:
            yield from self._once("the input exceeds full scale: turn it down")

    def inspect_pace(self, metrics: StreamMetrics, now: float) -> Iterator[str]:
        """Yield a warning if the model falls further and further behind the speech.

        There is none if a pipe brings audio faster than it was spoken, or if the machine was slow
        for a moment and catches up.

        Args:
            metrics: of the stream.
            now: time of this block on a clock, in seconds.
        """
        self.began = now if self.began is None else self.began
        behind = min(metrics.captured, now - self.began) - metrics.transcribed
        if behind <= BEHIND_SECONDS:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now, behind
        elif now - self.behind_since[0] >= GROWING_SECONDS and behind > self.behind_since[1]:
            yield from self._once(
                f"more than {BEHIND_SECONDS:.0f} s behind: this machine is slower than the speech; "
                "text comes late, nothing is lost"
            )

    def _once(self, text: str) -> Iterator[str]:
        if text not in self.reported:
            self.reported.add(text)
            yield text
