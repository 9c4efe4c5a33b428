"""Live recordings in the engine: what has come of each is encoded together, once a tick.

A tick is as long as a token of audio, or two. In each the encoder takes the next tokens of all
streams that have some, and the decoder follows. A stream of which more has come than it takes in a
tick, because the machine or the network was slow, catches up in ticks between.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter

import numpy as np

from ..model import LoadedModel
from .live_encoder import LiveEncoder
from .recording import Recording

CATCH_UP = 16  # tokens of all streams together that a tick may take beyond those of its length
RECENT_TICKS = 4096  # whose durations are kept


@dataclass(eq=False, kw_only=True)
class LiveRecording(Recording):
    """A recording that is fed as it is spoken."""

    slot: int  # of the encoder
    samples: np.ndarray  # not encoded yet, from look_back before the next token on
    num_samples: int = 0  # fed
    is_ending: bool = False  # nothing more will be fed
    _fed: list[np.ndarray] = field(default_factory=list)  # not appended to `samples` yet
    _num_fed: int = 0  # samples of them
    _feed_lock: Lock = field(default_factory=Lock)

    def feed(self, samples: np.ndarray) -> None:
        """Take the next samples, float32 [n]; from any thread."""
        with self._feed_lock:
            self._fed.append(samples)
            self._num_fed += len(samples)
            self.num_samples += len(samples)

    @property
    def num_waiting(self) -> int:
        """Return how many samples wait to be encoded."""
        return len(self.samples) + self._num_fed

    def next_samples(self, model: LoadedModel, most: int) -> np.ndarray | None:
        """Return the samples of the next tokens, at most so many, with those around them.

        None if there are none. At the end of the audio they are followed by silence, and
        `num_places` is set when the last ones are returned.
        """
        # Take what was fed
        rules, audio = model.manifest.streaming, model.manifest.config.audio
        per_token, margin = (
            audio.samples_per_token,
            rules.look_back_samples + rules.look_ahead_samples,
        )
        with self._feed_lock:
            fed, self._fed, self._num_fed = self._fed, [], 0
            is_ending, num_samples = self.is_ending, self.num_samples
        if fed:
            self.samples = np.concatenate((self.samples, *fed))
        available = (len(self.samples) - margin) // per_token

        # Go on with silence at the end, as `Stream.finish` does
        if is_ending:
            pads = self.num_delay_tokens + rules.right_pad_tokens
            end = rules.left_pad_tokens + -(-num_samples // per_token) + pads - 1
            available = end - self.num_encoded
            lacking = min(available, most) * per_token + margin - len(self.samples)
            if lacking > 0:
                self.samples = np.concatenate((self.samples, np.zeros(lacking, np.float32)))
            if available <= most:
                self.num_places = end
        tokens = min(available, most)
        if tokens <= 0:
            return None
        samples = self.samples[: tokens * per_token + margin]
        self.samples = self.samples[tokens * per_token :]
        return samples


@dataclass(slots=True)
class TickMetrics:
    """How long ticks have taken, from when they were due until all their tokens were decoded."""

    num_ticks: int = 0
    num_late: int = 0  # that took longer than a tick lasts
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_TICKS))
    encode_seconds: float = 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the recent durations, in seconds."""
        recent = list(self.seconds)
        return float(np.percentile(recent, percent)) if recent else 0.0


class Ticker:
    """The live recordings of an engine, and when they are encoded next."""

    def __init__(self, model: LoadedModel, encoder: LiveEncoder, tick_tokens: int):
        """Begin without recordings.

        Args:
            model: to encode with.
            encoder: with a slot for each of them.
            tick_tokens: tokens of audio in a tick.
        """
        audio = model.manifest.config.audio
        self.model, self.encoder, self.tick_tokens = model, encoder, tick_tokens
        self.seconds = tick_tokens * audio.samples_per_token / audio.sample_rate
        self.metrics = TickMetrics()
        self.recordings: list[LiveRecording] = []
        self._new: list[LiveRecording] = []  # whose slots are not started
        self._free = list(range(encoder.slots))[::-1]
        self._due = perf_counter()
        self._pending: float | None = None  # since when a tick is due that is not decoded yet
        self.is_behind = False  # more has come than the last tick took

    @property
    def has_room(self) -> bool:
        """Return whether a slot of the encoder is free."""
        return bool(self._free)

    def take_slot(self) -> int:
        """Return a free slot of the encoder."""
        return self._free.pop()

    def add(self, recording: LiveRecording) -> None:
        """Encode a recording from the next tick on."""
        if not self.recordings:
            self._due = perf_counter()
        self.recordings.append(recording)
        self._new.append(recording)

    def drop(self, recording: LiveRecording) -> None:
        """Encode no more of a recording, and free its slot."""
        if recording in self.recordings:
            self.recordings.remove(recording)
            self._free.append(recording.slot)

    def seconds_left(self) -> float | None:
        """Return the time until the next tick; None if there is nothing to encode."""
        return max(0.0, self._due - perf_counter()) if self.recordings else None

    def encode(self) -> list[tuple[LiveRecording, np.ndarray]]:
        """Encode the next tokens of all recordings, and return their audio embeddings.

        Raises:
            DeviceError: the call has failed.
        """
        # Choose how much of each is taken; a lone stream catches up in larger calls
        began = perf_counter()
        is_due = began >= self._due
        recordings = list(self.recordings)
        most = max(self.tick_tokens, CATCH_UP // max(1, len(recordings)))
        most = min(most, self.encoder.max_tokens)
        chosen = dict[LiveRecording, np.ndarray]()
        for each in recordings:
            samples = each.next_samples(self.model, most)
            if samples is not None:
                chosen[each] = samples

        # Plan the next tick, and what is to be caught up with before
        audio, rules = self.model.manifest.config.audio, self.model.manifest.streaming
        margin = rules.look_back_samples + rules.look_ahead_samples
        tick = self.tick_tokens * audio.samples_per_token
        self.is_behind = any(
            each.num_waiting >= margin + tick or (each.is_ending and each.num_places is None)
            for each in chosen
        )
        began = self._due if is_due else began
        if is_due:
            self._due = max(self._due + self.seconds, perf_counter())
        if not chosen:
            return []

        # Encode
        while self._new:
            self.encoder.start(self._new.pop().slot)
        self._pending = began if self._pending is None else self._pending
        calling = perf_counter()
        found = self.encoder.encode({each.slot: samples for each, samples in chosen.items()})
        self.metrics.encode_seconds += perf_counter() - calling
        return [(each, found[each.slot]) for each in chosen]

    def note_decoded(self) -> None:
        """Count a tick whose tokens are all decoded."""
        if self._pending is not None:
            seconds, self._pending = perf_counter() - self._pending, None
            self.metrics.num_ticks += 1
            self.metrics.num_late += seconds > self.seconds
            self.metrics.seconds.append(seconds)
