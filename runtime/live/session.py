"""Sessions of live transcription: samples in as they are spoken, events out.

A session stands around a stream. Samples pass it before the stream takes them, and tokens pass it
when the stream has decoded them, at once or later and from another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import RLock
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from ...errors import AudioError
from ..audio.following import OffsetFollower
from ..audio.samples import check_samples
from ..audio.vad import SpeechFilter
from ..stream import Stream
from ..text.segments import Grouper
from ..tokens import Token
from ..writer import TokenWriter
from .capture import Arrivals, Capture
from .events import Event, Silence, StreamWarning, Turn, TurnEnd
from .metrics import StreamMetrics
from .turns import TurnDetector, TurnRules
from .watch import Watch

SILENCE_SECONDS = 2.0  # without text, before a silence is reported


class LiveStream(Protocol):
    """A stream as a session sees it, whoever feeds it and takes its tokens."""

    writer: TokenWriter

    @property
    def num_encoded_samples(self) -> int:
        """Return the number of samples that the encoder has taken."""
        ...


class LiveSession:
    """A session on any stream: its caller carries samples to the stream, and tokens from it.

    One thread may call `take` and `end_audio` while another calls `accept_token`: events come one
    at a time, and a warning never stands between the events of one token.
    """

    def __init__(
        self,
        stream: LiveStream,
        on_event: Callable[[Event], None],
        speech_filter: SpeechFilter | None = None,
        turns: TurnRules | None = None,
        flush: Callable[[], int] | None = None,
    ):
        """Begin a session.

        Args:
            stream: a new one.
            on_event: called with every token that has text at once, with each segment when it is
                complete, with silences and with warnings. It should return soon.
            speech_filter: leaves out words that were written while nobody speaks.
            turns: when turns end, which are reported; None reports none.
            flush: lets the words of the stream come at once, when a turn has ended, and returns how
                many tokens it has then; None waits for them.
        """
        self.metrics = StreamMetrics()  # updated all the time
        self.arrivals = Arrivals()  # of the audio; others may note what they have not passed yet
        self.on_event, self.speech_filter = on_event, speech_filter
        self._stream, self._writer, self._lock = stream, stream.writer, RLock()
        self._audio = stream.writer.audio

        # Samples that come in
        self._num_samples, self._is_ended = 0, False
        self._offset = OffsetFollower(self._audio.sample_rate, self.warn)
        self._watch = Watch(self._audio.sample_rate)
        self._turns, self._flush = None, flush
        if turns:
            self._turns = TurnDetector(turns, self._audio.sample_rate, self._report_turn)

        # Tokens that come out
        self._grouper = Grouper(stream.writer.ids)
        self._text_end, self._is_silent = 0.0, False
        self._num_overrides = 0  # reported
        # Samples after the end of a token on which it depends
        self._num_ahead = (
            stream.writer.options.num_delay_tokens * self._audio.samples_per_token
            + stream.writer.model.manifest.streaming.look_ahead_samples
        )

    def warn(self, text: str) -> None:
        """Report a warning."""
        with self._lock:
            self.on_event(StreamWarning(text))

    def _report_turn(self, event: Turn) -> None:
        """Report an event of a turn; the last segment comes before its end."""
        if isinstance(event, TurnEnd):
            self.end_segment()
        self.on_event(event)

    # Samples that come in
    def take(self, samples: Any) -> np.ndarray:
        """Take the next samples, and return float32 [n] for the stream.

        They arrive now, unless `arrivals` has them already. Less than 80 ms may be held back.

        Args:
            samples: array, list or tensor, float [n] of any length, mono, at the model's rate, full
                scale 1.

        Raises:
            AudioError: the samples are of another kind or not finite, and the session stays as it
                was; or the audio has ended.
        """
        samples, now = check_samples(samples), perf_counter()
        with self._lock:
            if self._is_ended:
                raise AudioError("the audio of this live session has ended; begin another")
            self._num_samples += len(samples)
            if (num_new := self._num_samples - self.arrivals.num_samples) > 0:
                self.arrivals.add(num_new, now)
            self.metrics.level = float(np.abs(samples).max(initial=0))
            pace = self._watch.inspect_pace(self.metrics, now)
            for text in (*self._watch.inspect(samples), *pace):
                self.warn(text)
            return self._passed(self._offset.push(samples))

    def release(self) -> np.ndarray:
        """Return the float32 [n] that is held back, for a stream that is about to be flushed."""
        with self._lock:
            return self._passed(self._offset.finish())

    def end_audio(self) -> np.ndarray:
        """End the audio, and return the float32 [n] that was held back for the stream."""
        with self._lock:
            self._is_ended = True
            return self.release()

    def pieces(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Yield samples that were taken, float32 [n], in pieces for the stream.

        The stream must have each piece when the next is asked for, and the last when there is none:
        it is flushed behind those that end a turn.
        """
        while self._turns:
            with self._lock:
                size = self._turns.hear(samples)
            yield samples[:size]
            samples = samples[size:]
            with self._lock:
                if self._turns.is_ending:
                    self._turns.end_turn(self._flush() if self._flush else None)
            if not len(samples):
                return
        yield samples

    def _passed(self, samples: np.ndarray) -> np.ndarray:
        """Return samples that the stream takes next, which the filter needs before their tokens."""
        if self.speech_filter:
            self.speech_filter.push(samples)
        self.measure()
        return samples

    # Tokens that come out
    def accept_token(self, token: Token) -> None:
        """Take the next token of the stream, and report what follows from it."""
        with self._lock:
            if self.speech_filter:
                token = self.speech_filter.filter_token(token)
            self._warn_of_guards(token)
            if self._turns:
                self._turns.begin_token(token)
            if token.text:
                self.on_event(token)
                self._text_end, self._is_silent = token.end, False
            elif not self._is_silent and token.end - self._text_end > SILENCE_SECONDS:
                self.on_event(Silence(self._text_end))
                self._is_silent = True
            needed = (token.index + 1) * self._audio.samples_per_token + self._num_ahead
            fed = self._writer.num_fed(needed)
            # Of the audio, not of silence that was put in or follows it
            if self._writer.num_fed(needed - 1) < fed <= self._num_samples:
                self.metrics.latencies.append(perf_counter() - self.arrivals.time_of(fed))
            self.measure()
            if segment := self._grouper.push(token):
                self.on_event(segment)
            if self._turns:
                self._turns.end_token(token)

    def end_segment(self) -> None:
        """Report the last segment now, as its words have all come."""
        with self._lock:
            if segment := self._grouper.end():
                self.on_event(segment)

    def end(self) -> None:
        """Report the last segment and the end of the turn, after the last token."""
        with self._lock:
            self.measure()
            self.end_segment()
            if self._turns:
                self._turns.finish()

    def measure(self) -> None:
        """Bring the metrics up to date."""
        metrics, timings, rate = self.metrics, self._writer.timings, self._audio.sample_rate
        metrics.captured = self.arrivals.num_samples / rate
        metrics.transcribed = min(metrics.captured, self._stream.num_encoded_samples / rate)
        metrics.encode_seconds = timings.encode_seconds
        metrics.decode_seconds = timings.decode_seconds

    def _warn_of_guards(self, token: Token) -> None:
        """Warn of an ignored end-of-text token, and where the blank guard chose this token."""
        if token.token_id == self._writer.ids.eos:
            self.warn(
                f"the model wrote its end-of-text token at {token.end:.1f} s; a live stream goes on"
            )
        overrides = self._writer.overrides  # those of later tokens may be there already
        while self._num_overrides < len(overrides):
            override = overrides[self._num_overrides]
            if override.index > token.index:
                return
            self._num_overrides += 1
            end = self._writer.seconds_of(override.index)
            self.warn(f"the blank guard chose a word at {end:.1f} s (--no-blank-guard: never)")


class StreamSession(LiveSession):
    """A session on a `Stream`, whose tokens come while it is fed: samples in, events out."""

    def __init__(
        self,
        stream: Stream,
        on_event: Callable[[Event], None],
        speech_filter: SpeechFilter | None = None,
        turns: TurnRules | None = None,
    ):
        super().__init__(stream, on_event, speech_filter, turns)
        self.stream = stream

    def feed(self, samples: Any) -> None:
        """Take the next samples, and report all that follows from them.

        Raises:
            AudioError: as `take` raises it.
            VoxtralOnnxError: as `Stream.feed` raises it; what was reported before stands.
        """
        self._feed(self.take(samples))

    def finish(self) -> None:
        """End the audio, and report the rest; a second time there is none."""
        if len(rest := self.end_audio()):
            self._feed(rest)
        self._accept(self.stream.iter_finish())
        self.end()

    def run(self, capture: Capture) -> None:
        """Transcribe captured audio until it ends.

        Raises:
            AudioError: the source has failed; everything captured before is reported.
        """
        self.arrivals = capture.arrivals
        for samples in capture:
            self._warn_of_notes(capture)
            self.feed(samples)
        self._warn_of_notes(capture)
        self.finish()
        if capture.error is not None:
            raise capture.error

    def _warn_of_notes(self, capture: Capture) -> None:
        """Warn of what the source has said."""
        for text in capture.notes():
            self.warn(text)

    def _feed(self, samples: np.ndarray) -> None:
        for piece in self.pieces(samples):
            self._accept(self.stream.iter_feed(piece))

    def _accept(self, tokens: Iterator[Token]) -> None:
        for token in tokens:
            self.accept_token(token)
        self.measure()
