"""Sound as it is spoken to events: tokens, segments, silences, warnings.

Audio is captured in a thread of its own and waits there when the model is behind.

Nothing is dropped. A stream that is behind takes all that waits at once: the encoder then works in
larger, cheaper chunks.
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

RECENT_STEPS = 4096  # whose latency the metrics keep: 5.5 minutes
SILENCE_SECONDS = 2.0  # without text until a silence is reported
BEHIND_SECONDS = 2.0  # of audio that waits until it is reported
GROWING_SECONDS = 5.0  # for which ever more must have waited
MUTED_SECONDS = 5.0  # of samples that are all zero
CLIPPED = 0.999  # full scale; a converter's largest value is just below 1


@dataclass(frozen=True, slots=True)
class Silence:
    """No text for a while; reported once, when it has lasted SILENCE_SECONDS."""

    start: float  # seconds, where the last text ended


@dataclass(frozen=True, slots=True)
class StreamWarning:
    """Something a speaker should know; each is reported once."""

    text: str


Event = Token | Segment | Silence | StreamWarning


@dataclass(slots=True)
class StreamMetrics:
    """How a live stream keeps up, always current."""

    captured: float = 0.0  # seconds of audio
    transcribed: float = 0.0  # seconds of audio that went into the model
    level: float = 0.0  # peak of the last block, full scale 1
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    encode_seconds: float = 0.0  # of work, the mel frames' included
    decode_seconds: float = 0.0
    is_paused: bool = False

    @property
    def backlog(self) -> float:
        """Return the seconds of audio that wait."""
        return self.captured - self.transcribed

    @property
    def rtf(self) -> float:
        """Return the seconds of work for a second of audio."""
        return self.share(self.encode_seconds + self.decode_seconds)

    def share(self, seconds: float) -> float:
        """Return the share of the audio that was transcribed."""
        return seconds / self.transcribed if self.transcribed else 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the recent latencies, in seconds.

        From the arrival of the last sample a token may use to its text.
        """
        return float(np.percentile(list(self.latencies), percent)) if self.latencies else 0.0

    def summary(self) -> dict[str, float]:
        """Return its values by name, times in seconds and latencies in milliseconds."""
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
    """Blocks of samples taken in a thread, with the time of their arrival."""

    def __init__(self, blocks: Iterator[np.ndarray], notes: SimpleQueue[str] | None = None):
        """Begin to take blocks: float [n] at the model's rate, in the order they are spoken.

        `notes` gets what their source has to say of them.
        """
        self._notes = notes or SimpleQueue[str]()
        self._blocks, self._ready = blocks, threading.Condition()
        self._waiting: list[np.ndarray] = []
        self._counts: list[int] = []  # samples captured up to and with each block
        self._times: list[float] = []
        self._ended = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Take no more; what was captured is still handed out."""
        with self._ready:
            self._ended = True
            self._ready.notify()

    @property
    def num_samples(self) -> int:
        """Return the samples captured so far."""
        return self._counts[-1] if self._counts else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all that waits, as soon as there is something; ends when the source has ended.

        Raises:
            AudioError: what the source raised, after everything before it was handed out.
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
        """Yield what the source has said since this was asked last."""
        while not self._notes.empty():
            yield self._notes.get()

    def arrival(self, num_samples: int) -> float:
        """Return when that many samples had arrived.

        Asked for in rising order, what is older is forgotten.
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
        except BaseException as error:  # handed to the thread that iterates
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
    """Transcribe what is captured until it ends, then what is still delayed.

    Args:
        stream: a new one.
        capture: the audio.
        metrics: kept current.
        on_event: gets every token with text at once, then its segment, silences, and warnings.
        speech_filter: leaves out words without speech.

    Raises:
        AudioError: the source broke; everything captured before has been transcribed.
    """
    rate, rules = stream.audio.sample_rate, stream.rules
    text_end, is_silent = 0.0, False
    watch = _Watch(rate)

    def warn(text: str) -> None:
        on_event(StreamWarning(text))

    offset = OffsetFollower(rate, warn)

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
            if needed <= stream.num_samples:  # not the padding's
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

    for segment in group(tokens(), Grouper(stream.ids)):
        on_event(segment)


def _guard_warnings(stream: Stream, token: Token) -> Iterator[str]:
    """Yield the warnings of guards that this token set off."""
    if token.token_id == stream.ids.eos:
        yield (
            f"the model took the text to be at its end at {token.end:.1f} s; a live stream goes on"
        )
    if stream.overrides and stream.overrides[-1].index == token.index:
        yield f"the blank guard chose a word at {token.end:.1f} s (--no-blank-guard: never)"


class _Watch:
    """What is worth a warning."""

    def __init__(self, rate: int):
        self.rate, self.reported = rate, set[str]()
        self.zeros = 0  # samples in a row, up to now
        self.began: float | None = None  # when the first block came
        self.behind_since: tuple[float, float] | None = None  # when, and how many seconds

    def inspect(self, block: np.ndarray) -> Iterator[str]:
        """Yield the warnings that a block gives rise to."""
        edges = np.concatenate(([-1 - self.zeros], np.flatnonzero(block), [len(block)]))
        longest, self.zeros = int(np.diff(edges).max()) - 1, int(edges[-1] - edges[-2]) - 1
        if longest >= MUTED_SECONDS * self.rate:
            yield from self._once(
                f"the input has been digital silence for {MUTED_SECONDS:.0f} s: is it muted?"
            )
        if np.count_nonzero(np.abs(block) >= CLIPPED) > len(block) / 100:
            yield from self._once("the input exceeds full scale: turn it down")

    def inspect_pace(self, metrics: StreamMetrics, now: float) -> Iterator[str]:
        """Yield a warning where the work falls behind speech, and further behind as it goes on.

        A pipe may bring audio faster than it is spoken: what waits then is not the machine's
        fault. One that stalled for a moment catches up.

        Args:
            metrics: of the stream.
            now: seconds of a clock, at every block.
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
