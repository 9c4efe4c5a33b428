"""Mix a live stream to mono as it arrives: take channels that are heard, remove an offset.

`mixing` measures the whole of a recording before it decides. Here what was heard so far decides,
and sound that needs nothing comes out as it went in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp

import numpy as np

from ...errors import AudioError
from .meter import FRAME_SECONDS, OFFSET_SHARE, SILENT_PEAK, SoundMeter, least_shares
from .mixing import TARGET_LOUDNESS, OffsetFilter

# Frames of 20 ms that the signal taken has lost are held back, HELD_FRAMES at most; ENOUGH_LOST of
# them change the choice. Phases of a room and clicks last less, and a word lasts longer.
HELD_FRAMES, ENOUGH_LOST = 4, 3
# A frame is heard down to 40 dB below the loudest recent one, which is forgotten in about ten
# seconds: hum that cancels in the pauses is no loss
HEARD_SHARE, FORGETTING = 1e-4, exp(-FRAME_SECONDS / 10)

# So many frames from full scale on that are whole numbers without silence, or far above it, are
# no floats of full scale 1
SCALE_FRAMES, MOST_ENERGY = 5, 100.0

# Large offsets show at once: in 80 ms of speech the mean is hardly ever above twice the deviation.
# Smaller ones, and those that come later, show in a second
PIECE_SECONDS, DEVIATIONS = 4 * FRAME_SECONDS, 2
WINDOW_SECONDS, PIECES_AT_FIRST = 1.0, 12  # so many pieces are about a window
# Of sound: before the first nobody may have spoken, and from the second on loudness stays
KNOWN_SECONDS, MEASURED_SECONDS = 5.0, 60.0


class ChannelFollower:
    """A mixer that averages channels, and takes one from the moment on at which they cancel out.

    A signal, which is a channel or the average, has lost a frame if it has a tenth or less of the
    energy of the loudest channel there. Such frames are held back until it is clear which signal to
    take for them.
    """

    def __init__(
        self, sample_rate: int, channels: int, say: Callable[[str], None], begin: float = 0.0
    ):
        """Begin with the average.

        Args:
            sample_rate: in Hz.
            channels: their number.
            say: called with a note on each choice that is made, once.
            begin: seconds of the stream before the first frame.
        """
        self._rate, self._channels, self._say = sample_rate, channels, say
        self._size = max(1, round(sample_rate * FRAME_SECONDS))
        self._least_shares = least_shares(channels)
        self._rest = np.zeros((0, channels), np.float32)  # less than a frame
        self._taken = channels  # the index of a channel, or `channels` for the average
        self._held, self._energies = list[np.ndarray](), list[np.ndarray]()
        self._num_lost = 0  # of the frames that are held
        self._loudest, self._seconds = 0.0, begin  # recent energy; time of what is given out next
        self._said = set[int]()

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Return mono float32 [n] for float32 [n, channels]; a few frames may be held back."""
        if self._channels == 1:
            return frames[:, 0]
        frames = np.concatenate((self._rest, frames))
        whole = len(frames) // self._size * self._size
        self._rest = frames[whole:]
        return self._joined(self._follow(frames[:whole].reshape(-1, self._size, self._channels)))

    def finish(self) -> np.ndarray:
        """Return the float32 [n] that is held back; call it last."""
        if self._channels == 1:
            return np.zeros(0, np.float32)
        if self._num_lost:
            self._choose()
        return self._joined([*self._release(), self._mono(self._rest)])

    def _follow(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        """Yield mono float32 [n] for frames [frames, size, channels], once the choice is clear."""
        signals = np.concatenate((frames, frames.mean(2, keepdims=True)), 2)
        energies = signals.astype(np.float64).var(1)  # without an offset, [frames, signals]
        loudest = energies[:, : self._channels].max(1)
        for frame, energy, level in zip(frames, energies, loudest, strict=True):
            self._loudest = max(level, self._loudest * FORGETTING)
            is_heard = level > max(SILENT_PEAK**2, HEARD_SHARE * self._loudest)
            is_lost = is_heard and energy[self._taken] < level * self._least_shares[self._taken]
            if not is_lost and (is_heard or not self._held):
                yield from self._release()
                yield self._give(frame)
                continue
            self._held.append(frame)
            self._energies.append(energy)
            self._num_lost += bool(is_lost)
            if len(self._held) == HELD_FRAMES:
                if self._num_lost >= ENOUGH_LOST:
                    self._choose()
                yield from self._release()

    def _choose(self) -> None:
        """Take the average, or the loudest channel if the average loses the frames held back."""
        energies = np.sum(self._energies, 0)
        channels = energies[: self._channels]
        best = int((channels >= 0.99 * channels.max()).argmax())
        is_averaged = energies[-1] >= channels.max() * self._least_shares[-1]
        self._taken = self._channels if is_averaged else best
        if self._taken not in self._said:
            self._said.add(self._taken)
            at = f"from {self._seconds:.1f} s on"
            if is_averaged:
                self._say(f"what channel {best + 1} has was lost: channels averaged {at}")
            else:
                self._say(
                    f"channels cancel each other (opposite phase): channel {best + 1} of "
                    f"{self._channels} taken {at}"
                )

    def _release(self) -> Iterator[np.ndarray]:
        """Yield the frames held back as mono float32 [n]."""
        held, self._held, self._energies, self._num_lost = self._held, [], [], 0
        for frame in held:
            yield self._give(frame)

    def _give(self, frame: np.ndarray) -> np.ndarray:
        """Return a frame as mono float32 [n], and count its time."""
        self._seconds += len(frame) / self._rate
        return self._mono(frame)

    def _mono(self, frames: np.ndarray) -> np.ndarray:
        return frames.mean(1) if self._taken == self._channels else frames[:, self._taken]

    def _joined(self, parts: Iterator[np.ndarray] | list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *parts])


class ScaleGuard:
    """Lets samples through, up to where they are integers that were stored as floats.

    Files of them are brought down by their loudness, which a stream has at its end.
    """

    def __init__(self, sample_rate: int, channels: int):
        """Begin with nothing held back."""
        self._size = max(1, round(sample_rate * FRAME_SECONDS))
        self._held = np.zeros((0, channels), np.float32)  # at its first sample of full scale

    def push(self, frames: np.ndarray) -> np.ndarray:
        """Return float32 [n, channels] of the same, of which less than 0.1 s may be held back.

        Raises:
            AudioError: full scale is not 1.
        """
        frames, at = np.concatenate((self._held, frames)), 0
        window = SCALE_FRAMES * self._size
        full = np.flatnonzero(np.abs(frames).max(1) >= 1)
        for first in full:
            if first < at:  # looked at
                continue
            if len(frames) < first + window:
                self._held = frames[first:]
                return frames[:first]
            at = first + window
            self._look(frames[first:at])
        self._held = frames[len(frames) :]
        return frames

    def finish(self) -> np.ndarray:
        """Return float32 [n, channels] of what is held back."""
        return self._held

    def _look(self, frames: np.ndarray) -> None:
        peak, parts = float(np.abs(frames).max()), np.split(frames, SCALE_FRAMES)
        are_whole = peak > 1 and bool((frames == np.rint(frames)).all())
        if (are_whole and all(map(np.any, parts))) or all(
            float(np.square(part, dtype=np.float64).mean()) > MOST_ENERGY for part in parts
        ):
            raise AudioError(
                f"standard input: expected floats of -1 to 1, got {peak:,.6g}: integers are "
                "--sample-format s16le; or pipe it into voxtral-onnx transcribe, which lowers it"
            )


class OffsetFollower:
    """A filter that removes an offset from the moment on at which it is certain.

    Until about a second of sound has come, it is held back in pieces of 80 ms, so that a large
    offset of a stream is never heard.
    """

    def __init__(self, sample_rate: int, say: Callable[[str], None]):
        """Begin without removing anything; `say` is called with a note if an offset is found."""
        self._rate, self._say = sample_rate, say
        self._size, self._left = round(PIECE_SECONDS * sample_rate), PIECES_AT_FIRST
        self._all, self._window = SoundMeter(sample_rate, 1), SoundMeter(sample_rate, 1)
        self._num_samples = self._num_window = 0  # so far, and of the window
        self._unmeasured = list[np.ndarray]()  # of them; measuring takes time, so rarely
        self._rest = np.zeros(0, np.float32)  # held back
        self._remove: OffsetFilter | None = None

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 [n] for float32 [n], of which less than 80 ms may be held back."""
        is_open = not (self._left or self._remove or len(self._rest))
        if is_open and self._num_window + len(samples) < WINDOW_SECONDS * self._rate:
            self._keep(samples)  # and nothing can be decided
            return samples
        self._rest, given = np.concatenate((self._rest, samples)), [self._rest[:0]]
        while self._remove is None and len(self._rest) >= (self._size if self._left else 1):
            count = round(WINDOW_SECONDS * self._rate) - self._num_window
            count = min(count, self._size) if self._left else count
            piece, self._rest = self._rest[:count], self._rest[count:]
            self._look(piece)
            given.append(piece if self._remove is None else self._remove(piece))
        if self._remove is not None:
            given.append(self.finish())
        return np.concatenate(given)

    def finish(self) -> np.ndarray:
        """Return the float32 [n] that is held back."""
        rest, self._rest = self._rest, self._rest[:0]
        return rest if self._remove is None else self._remove(rest)

    def _keep(self, piece: np.ndarray) -> None:
        """Keep samples that are to be measured."""
        self._unmeasured.append(piece.copy())  # the caller may use its memory again
        self._num_window += len(piece)
        self._num_samples += len(piece)

    def _look(self, piece: np.ndarray) -> None:
        """Decide from the next samples whether there is an offset to remove from them on."""
        # Measure what has come, if something can be decided
        self._keep(piece)
        is_whole = self._num_window >= WINDOW_SECONDS * self._rate
        if not is_whole and not self._left:
            return
        begin = (self._num_samples - len(piece)) / self._rate
        sound, self._unmeasured = np.concatenate(self._unmeasured)[:, None], []
        self._window.push(sound)
        if begin < MEASURED_SECONDS:
            self._all.push(sound)
        loudness, mean = self._all.loudness(0), 0.0
        if begin < KNOWN_SECONDS:  # before anybody speaks, the loudness of speech is unknown
            loudness = max(loudness, 10 ** (TARGET_LOUDNESS / 20))

        # In a whole window
        if is_whole:
            offset = self._window.offset(0, loudness)
            self._window, self._num_window = SoundMeter(self._rate, 1), 0
            mean = offset.mean if offset is not None and offset.is_constant else 0.0

        # In the first pieces, a mean far above the deviation
        if self._left and np.abs(piece).max() > SILENT_PEAK:
            self._left -= 1
            found = float(piece.mean(dtype=np.float64))
            if abs(found) > max(OFFSET_SHARE * loudness, DEVIATIONS * float(piece.std())):
                mean = found
        if mean:
            self._remove = OffsetFilter(self._rate, mean)
            self._say(f"constant offset of {mean:.2g} removed from {begin:.1f} s on")
