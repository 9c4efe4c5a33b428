"""Live recordings in the engine: what has come of each is encoded together, once a tick.

In each tick the encoder takes the next tokens of all streams that have some, and the decoder
follows. A tick lasts as long as a token of audio, or two, when there is much to do; with little to
do the next one comes sooner, and so does text. A stream of which more has come than a tick takes,
because it was flushed, or the machine or the network was slow, catches up in calls between, as far
as the time until the next tick is known to suffice for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from threading import RLock
from time import perf_counter

import numpy as np

from ...errors import DeviceError
from ..model import LoadedModel
from .encoders.live_encoder import LiveEncoder
from .encoders.samples import CATCH_UP
from .recording import Recording

FORGET = 0.8  # of what a call has taken stays known when later ones take less
LEAST_PAUSE = 0.01  # seconds from one tick to the next
START_SHARE = 0.1  # of a tick that starting new recordings may take
REST = 3  # times as long as a tick took is the time to the next; at most as long as a tick lasts
RECENT_TICKS = 4096  # whose durations are kept
RECENT = 32  # of which most must have been in time before another stream is let in


@dataclass(eq=False, kw_only=True)
class LiveRecording(Recording):
    """A recording that is fed as it is spoken."""

    samples: np.ndarray  # not encoded yet, from look_back before the next token on
    slot: int = -1  # of the encoder; none before the first tick
    num_samples: int = 0  # fed
    is_ending: bool = False  # nothing more will be fed
    _fed: list[np.ndarray] = field(default_factory=list)  # not appended to `samples` yet
    _num_fed: int = 0  # samples of them
    _feed_lock: RLock = field(default_factory=RLock)

    def feed(self, samples: np.ndarray) -> None:
        """Take the next samples, float32 [n]; from any thread."""
        with self._feed_lock:
            self._fed.append(samples)
            self._num_fed += len(samples)
            self.num_samples += len(samples)

    def put_silence_in(self, per_token: int, tokens: int, note: Callable[[int, int], None]) -> int:
        """Take silence up to the end of a token and so many further ones; return its first sample.

        Args:
            per_token: samples.
            tokens: of silence.
            note: called with its first sample and its length, before anything is encoded of it.
        """
        with self._feed_lock:
            first = self.num_samples
            size = -first % per_token + tokens * per_token
            note(first, size)
            self.feed(np.zeros(size, np.float32))
            return first

    @property
    def num_waiting(self) -> int:
        """Return how many samples wait to be encoded."""
        return len(self.samples) + self._num_fed

    def tokens_waiting(self, model: LoadedModel) -> int:
        """Return how many tokens can be encoded now."""
        with self._feed_lock:
            if self.is_ending:
                return self._last_place(model, self.num_samples) - self.num_encoded
            rules = model.manifest.streaming
            around = rules.look_back_samples + rules.look_ahead_samples
            per_token = model.manifest.config.audio.samples_per_token
            return max(0, (self.num_waiting - around) // per_token)

    def _last_place(self, model: LoadedModel, num_samples: int) -> int:
        """Return the place behind the last token, when so many samples are all."""
        rules, audio = model.manifest.streaming, model.manifest.config.audio
        pads = self.num_delay_tokens + rules.right_pad_tokens
        return rules.left_pad_tokens + -(-num_samples // audio.samples_per_token) + pads - 1

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
            end = self._last_place(model, num_samples)
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

    def __init__(
        self,
        model: LoadedModel,
        slots: int,
        tick_tokens: int,
        open_encoder: Callable[[int], LiveEncoder],
    ):
        """Begin without recordings.

        Args:
            model: to encode with.
            slots: recordings at a time.
            tick_tokens: tokens of audio in a tick.
            open_encoder: returns an encoder with so many slots; called by the thread that encodes.
        """
        audio = model.manifest.config.audio
        self.model, self.slots, self.tick_tokens = model, slots, tick_tokens
        self._open_encoder, self._encoder = open_encoder, None
        self.seconds = tick_tokens * audio.samples_per_token / audio.sample_rate
        self.metrics, self._recent = TickMetrics(), deque[float](maxlen=RECENT)
        self.recordings: list[LiveRecording] = []
        # Reentrant, as garbage collection may close a stream between any two lines
        self._lock = RLock()
        # Whose slots are to be started, and freed, by the thread that encodes
        self._new, self._dropped = list[LiveRecording](), list[LiveRecording]()
        self.refused: list[tuple[LiveRecording, DeviceError]] = []  # by the encoder; to be taken
        self._free = list(range(slots))[::-1]
        self._due = self._began = perf_counter()  # of the next tick, and of the last
        self._pending: float | None = None  # since when a tick is due that is not decoded yet
        self.num_encoded, self._steps_left = 0, 0  # ticks, and the decoder's steps for the last one
        self._pause = self.seconds  # from one tick to the next
        self._behind: list[LiveRecording] = []  # of which more had come than the last call took
        self._has_caught_up = False  # since the last tick
        # Since when the last call between ticks runs, its streams and its tokens of each
        self._call: tuple[float, int, int] | None = None
        self._decoding: tuple[float, int, int] | None = None  # the same, once it is encoded
        self._costs = dict[int, float]()  # seconds of a token, by the bits of how many streams

    @property
    def encoder(self) -> LiveEncoder:
        """Return the encoder, opened when first needed.

        Raises:
            ArtifactError, DeviceError: it cannot be opened.
        """
        if self._encoder is None:
            self._encoder = self._open_encoder(self.slots)
        return self._encoder

    def close(self) -> None:
        """Free the encoder."""
        if self._encoder:
            self._encoder.close()

    @property
    def has_room(self) -> bool:
        """Return whether another recording may be added."""
        return len(self.recordings) < self.slots

    def add(self, recording: LiveRecording) -> None:
        """Encode a recording from the next tick on."""
        with self._lock:
            if not self.recordings:
                self._due = perf_counter()
                self._recent.clear()
            self.recordings.append(recording)
            self._new.append(recording)

    def drop(self, recording: LiveRecording) -> None:
        """Encode no more of a recording; its slot is freed in the next tick."""
        with self._lock:
            if recording in self.recordings:
                self.recordings.remove(recording)
                if recording in self._new:
                    self._new.remove(recording)
                else:
                    self._dropped.append(recording)

    def _settle(self) -> list[LiveRecording]:
        """Free the slots of recordings that were dropped, start new ones, and return all.

        Those that cannot be started, because the device's memory is full, are `refused`. Where many
        begin at once, some begin later, so that the others' ticks stay in time.
        """
        with self._lock:
            dropped, self._dropped = self._dropped, []
            self._free += [each.slot for each in dropped]
        for each in dropped:
            self.encoder.free(each.slot)
        until = perf_counter() + START_SHARE * self.seconds
        while new := self._next_new():
            try:
                self.encoder.start(new.slot)
            except DeviceError as error:
                self.refused.append((new, error))
                self.drop(new)
            if perf_counter() > until:
                break
        with self._lock:
            return [each for each in self.recordings if each not in self._new]

    def _next_new(self) -> LiveRecording | None:
        """Give a slot to the first recording that has none, and return it.

        None if there is none, or if the one whose place it takes is not freed yet.
        """
        with self._lock:
            if not self._new or not self._free:
                return None
            new = self._new.pop(0)
            new.slot = self._free.pop()
            return new

    def seconds_left(self) -> float | None:
        """Return the time until the next tick; None if there is nothing to encode."""
        return max(0.0, self._due - perf_counter()) if self.recordings else None

    @property
    def may_catch_up(self) -> bool:
        """Return whether there is something to catch up with, and time before the next tick.

        A token a tick is caught up with even if there is none.
        """
        left = self._due - perf_counter()
        is_first = not self._has_caught_up
        return bool(self._behind) and (is_first or left >= self._cost(len(self._behind)))

    def _cost(self, count: int) -> float:
        """Return how long a token of so many streams takes, by what earlier calls have taken."""
        bits = count.bit_length()
        if bits in self._costs or not self._costs:
            return self._costs.get(bits, 0.0)
        nearest = min(self._costs, key=lambda known: abs(known - bits))
        return self._costs[nearest] * 2.0 ** max(0, bits - nearest)

    def _most(self, waiting: Collection[int], left: float) -> int:
        """Return how many tokens of each stream a call takes, so that none waits for another.

        Args:
            waiting: tokens of the streams that have some.
            left: seconds until the next tick; none left if it is due.
        """
        if left <= 0 and any(tokens <= self.tick_tokens for tokens in waiting):
            return self.tick_tokens
        most = min(CATCH_UP // max(1, len(waiting)), self.encoder.max_tokens)
        if left <= 0:
            return max(self.tick_tokens, most)
        cost = self._cost(len(waiting))
        return max(1, min(most, int(left / cost))) if cost else 1

    def choose(self) -> dict[LiveRecording, np.ndarray]:
        """Return the samples that the next call encodes, by recording."""
        # Find what has come, and what is to be caught up with
        recordings = self._settle()
        now, tick = perf_counter(), self.tick_tokens
        left, is_due = self._due - now, now >= self._due
        waiting = {each: each.tokens_waiting(self.model) for each in recordings}
        if not is_due:
            waiting = {each: waiting[each] for each in self._behind if each in waiting}
        waiting = {each: tokens for each, tokens in waiting.items() if tokens > 0}
        most = self._most(waiting.values(), left)

        # Take it
        chosen = dict[LiveRecording, np.ndarray]()
        for each in waiting:
            samples = each.next_samples(self.model, most)
            if samples is not None:
                chosen[each] = samples

        # Plan the next tick, and what is to be caught up with before
        self._behind = [
            each
            for each, tokens in waiting.items()
            if tokens - most >= tick or (each.is_ending and tokens > most)
        ]
        self._has_caught_up = not is_due
        self._call = None if is_due or not chosen else (now, len(chosen), most)
        self._began = now
        if is_due:
            pause = self._pause if chosen else LEAST_PAUSE
            self._began, self._due = self._due, max(self._due + pause, now)
        return chosen

    def encode(
        self, chosen: Mapping[LiveRecording, np.ndarray]
    ) -> list[tuple[LiveRecording, np.ndarray]]:
        """Return the audio embeddings of what was chosen.

        Raises:
            DeviceError: the call has failed, and these recordings are lost.
        """
        began = perf_counter()
        found = self.encoder.encode({each.slot: samples for each, samples in chosen.items()})
        self.metrics.encode_seconds += perf_counter() - began
        return [(each, found[each.slot]) for each in chosen]

    def note_encoded(self) -> None:
        """Note that the decoder has what was chosen."""
        self._decoding, self._call = self._call, None
        if self._decoding is None:
            self.num_encoded, self._steps_left = self.num_encoded + 1, self.tick_tokens
            if self._pending is None:
                self._pending = self._began

    @property
    def late_seconds(self) -> float | None:
        """Return the median duration of the last ticks, if it is longer than a tick lasts."""
        recent = list(self._recent)
        is_known = self.recordings and len(recent) == RECENT
        seconds = float(np.median(recent)) if is_known else 0.0
        return seconds if seconds > self.seconds else None

    def note_step(self, num_encoded: int, *, is_idle: bool) -> None:
        """Count a tick whose tokens are all decoded.

        Args:
            num_encoded: the number of ticks that were encoded when the step began.
            is_idle: whether nothing is left to decode, of streams that catch up either.
        """
        if is_idle and self._decoding is not None:
            (began, count, tokens), self._decoding = self._decoding, None
            bits, cost = count.bit_length(), (perf_counter() - began) / tokens
            self._costs[bits] = max(cost, FORGET * self._costs.get(bits, cost))
        if num_encoded != self.num_encoded:  # the step does not have the last tick's
            return
        self._steps_left -= 1
        if self._pending is not None and (is_idle or self._steps_left <= 0):
            seconds, self._pending = perf_counter() - self._pending, None
            self._pause = min(self.seconds, max(LEAST_PAUSE, REST * seconds))
            self.metrics.num_ticks += 1
            self.metrics.num_late += seconds > self.seconds
            self.metrics.seconds.append(seconds)
            self._recent.append(seconds)
