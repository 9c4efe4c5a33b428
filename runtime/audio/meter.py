"""Measure a recording's channels at constant memory: loudness, peaks, offsets, cancellation."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10, sqrt

import numpy as np

# Loudness: the energy of blocks of 0.4 s, one every 0.1 s, behind a gate 10 dB below their mean, as
# in ITU-R BS.1770-5, annex 1, without its weighting of frequencies. Of a block's 20 ms frames the
# upper quartile counts, not the mean, so that what is shorter than 0.1 s, as a click, does not;
# and there is no absolute gate, because a recording may be that quiet.
FRAME_SECONDS = 0.02
BLOCK_FRAMES, HOP_FRAMES = 20, 5
HELD_FRAMES = 1000  # whose blocks are measured together
QUARTILE = 0.75
GATE = 0.1
LOWEST_DB, HIGHEST_DB = -200, 200  # histogram of levels, a bin per dB; samples are below 187

# Channels oppose each other where the average of two has a tenth of the energy of the louder: 10 dB
CANCELLED = 0.1
# A channel is silent below the last bit of 24, or 80 dB below the loudest: a codec's rounding
SILENT_PEAK, SILENT_SHARE = 2.0**-23, 1e-4
SAME = 1e-6  # energy of a difference: channels that differ by less than -60 dB are one
# An offset begins to cost words at 17 dB below the loudness; the embedded samples that have one
# have it 31 dB below. A step of 16 bits is none: half a step is what truncation leaves.
OFFSET_SHARE, LEAST_OFFSET = 10 ** (-24 / 20), 2.0**-15


@dataclass(frozen=True, slots=True)
class Offset:
    """A constant that was added to the sound, or one that drifts."""

    start: float  # of the first 0.4 s, full scale 1
    mean: float
    size: float  # root of the mean square

    @property
    def is_constant(self) -> bool:
        """Return whether the offset is its mean throughout."""
        return abs(self.mean) > 0.9 * self.size


class SoundMeter:
    """A meter for the channels of a recording and, as the signal after them, their average."""

    def __init__(self, sample_rate: int, channels: int, *, are_compared: bool = False):
        """Begin with no sound.

        Args:
            sample_rate: in Hz.
            channels: their number.
            are_compared: whether `are_same` will be asked of the channels.
        """
        self.num_channels, self.num_frames = channels, 0
        self._are_compared = are_compared
        self._size = max(1, round(sample_rate * FRAME_SECONDS))  # samples of a frame
        count = channels + (channels > 1)
        self._signals = np.zeros((count, 0))  # room for samples, which is used again
        self._rest = np.zeros((count, 0))  # samples [signals, n], less than a frame
        # Means and mean squares of frames, [frames, 2, signals], whose blocks are not measured yet
        self._held, self._num_held = [np.zeros((0, 2, count))], 0

        # Over all samples
        self._lowest, self._highest = np.full(count, inf), np.full(count, -inf)
        self._sums, self._products = np.zeros(channels), np.zeros((channels, channels))
        # Over all blocks, [signals]
        self._num_blocks, self._first_offsets = 0, np.zeros(count)
        self._offsets, self._offset_squares = np.zeros(count), np.zeros(count)
        self._energies, self._levels = np.zeros(count), np.zeros(count)
        self._loudest, self._lost = 0.0, np.zeros(count)
        bins = HIGHEST_DB - LOWEST_DB + 1
        self._counts, self._gated = np.zeros((count, bins)), np.zeros((count, bins))
        self._least_shares = least_shares(channels)

    def push(self, frames: np.ndarray) -> None:
        """Measure the next float32 [n, channels] of a recording, about a second at a time."""
        if not len(frames):
            return
        self.num_frames += len(frames)
        rest, end = self._rest.shape[1], self._rest.shape[1] + len(frames)
        if self._signals.shape[1] < end:
            self._signals = np.empty((len(self._rest), end))
        signals = self._signals[:, :end]  # float64, as sums along a signal are fast
        signals[:, :rest], pushed = self._rest, signals[:, rest:]
        channels = pushed[: self.num_channels]
        channels[:] = frames.T
        if self._are_compared:
            self._sums += channels.sum(1)
            self._products += channels @ channels.T
        if self.num_channels > 1:
            np.mean(channels, 0, out=pushed[-1])
        self._lowest = np.minimum(self._lowest, pushed.min(1))
        self._highest = np.maximum(self._highest, pushed.max(1))

        # Whole frames, then whole blocks of many of them
        whole = end // self._size * self._size
        self._rest = signals[:, whole:].copy()
        self._add_frames(signals[:, :whole].reshape(len(signals), -1, self._size))
        if self._num_held >= HELD_FRAMES:
            self._settle()

    def finish(self) -> None:
        """Measure what is left after the last whole block; call it last."""
        self._settle()
        if self._rest.size:
            self._add_frames(self._rest[:, None])
        frames = np.concatenate(self._held)
        is_measured = self._num_blocks and len(frames) == BLOCK_FRAMES - HOP_FRAMES
        if len(frames) and not is_measured:
            self._add_blocks(frames.transpose(1, 2, 0)[None])
        self._held, self._num_held = [frames[:0]], 0

    def _settle(self) -> None:
        """Measure all whole blocks of the frames that are held."""
        num_blocks = (self._num_held - BLOCK_FRAMES) // HOP_FRAMES + 1
        if num_blocks <= 0:
            return
        frames = np.concatenate(self._held)
        windows = np.lib.stride_tricks.sliding_window_view(frames, BLOCK_FRAMES, 0)
        self._add_blocks(windows[::HOP_FRAMES])
        self._held = [frames[num_blocks * HOP_FRAMES :]]
        self._num_held = len(self._held[0])

    def _add_frames(self, samples: np.ndarray) -> None:
        """Reduce samples [signals, frames, size] to means and mean squares of frames."""
        squares = np.einsum("sfn,sfn->sf", samples, samples) / samples.shape[2]
        self._held.append(np.stack((samples.mean(2), squares)).transpose(2, 0, 1))
        self._num_held += samples.shape[1]

    def _add_blocks(self, blocks: np.ndarray) -> None:
        """Measure blocks [blocks, 2, signals, frames] of means and mean squares of frames."""
        means, squares = blocks[:, 0], blocks[:, 1]
        offsets = np.median(means, -1)  # not the mean, which a click moves
        around = offsets[..., None]
        energies = np.maximum(squares - 2 * around * means + around**2, 0)
        at = int(QUARTILE * (energies.shape[-1] - 1))
        levels = np.partition(energies, at, -1)[..., at]  # [blocks, signals]

        if not self._num_blocks:
            self._first_offsets = offsets[0]
        self._num_blocks += len(levels)
        self._offsets += offsets.sum(0)
        self._offset_squares += np.square(offsets).sum(0)
        self._energies += energies.mean(-1).sum(0)
        self._levels += levels.sum(0)
        loudest = levels[:, : self.num_channels].max(1)
        self._loudest += loudest.sum()
        self._lost += loudest @ (levels < loudest[:, None] * self._least_shares)

        least = 10 ** (LOWEST_DB / 10)
        decibels = np.rint(10 * np.log10(np.maximum(levels, least))).astype(int)
        bins = np.clip(decibels - LOWEST_DB, 0, HIGHEST_DB - LOWEST_DB)
        blocks_at, signals_at = np.nonzero(levels > least)
        found = signals_at, bins[blocks_at, signals_at]
        np.add.at(self._counts, found, 1)
        np.add.at(self._gated, found, levels[blocks_at, signals_at])

    def loudness(self, signal: int) -> float:
        """Return a signal's gated root mean square, full scale 1; 0 for no sound."""
        self._settle()
        counts, energies = self._counts[signal], self._gated[signal]
        if not counts.any():  # silence, or only sounds shorter than a block's quartile
            return sqrt(self._energies[signal] / max(1, self._num_blocks))
        gate = 0
        while True:  # until the gate drops no more blocks, so that long pauses do not count
            mean = energies[gate:].sum() / counts[gate:].sum()
            higher = max(gate, round(10 * log10(mean * GATE)) - LOWEST_DB)
            if not counts[gate:higher].any():
                return sqrt(mean)
            gate = higher

    def offset(self, signal: int, loudness: float | None = None) -> Offset | None:
        """Return the offset of a signal; None if it is too small to matter.

        Args:
            signal: its index.
            loudness: of the sound, full scale 1, where more is known than was measured.
        """
        self._settle()
        count = max(1, self._num_blocks)
        size = sqrt(self._offset_squares[signal] / count)
        loudness = self.loudness(signal) if loudness is None else loudness
        if size <= max(LEAST_OFFSET, OFFSET_SHARE * loudness):
            return None
        mean = float(self._offsets[signal] / count)
        return Offset(float(self._first_offsets[signal]), mean, size)

    def peak(self, signal: int, offset: float = 0.0) -> float:
        """Return the largest distance of a signal's samples from an offset, full scale 1."""
        if not self.num_frames:
            return 0.0
        return float(max(offset - self._lowest[signal], self._highest[signal] - offset))

    def is_silent(self, signal: int) -> bool:
        """Return whether a signal is constant."""
        return self._swing(signal) <= SILENT_PEAK

    def silent_channels(self) -> set[int]:
        """Return the channels that hold no sound, compared with the loudest one."""
        swings = [self._swing(channel) for channel in range(self.num_channels)]
        least = max(SILENT_PEAK, SILENT_SHARE * max(swings))
        return {channel for channel, swing in enumerate(swings) if swing <= least}

    def _swing(self, signal: int) -> float:
        """Return the largest distance of a signal's samples from its own offset."""
        self._settle()
        return self.peak(signal, self._offsets[signal] / max(1, self._num_blocks))

    def shares_lost(self) -> np.ndarray:
        """Return the share of the recording's sound that each signal has lost.

        A signal has lost what it has 10 dB or more below the loudest channel at that time.

        Returns:
            [signals], of the energy of the loudest channel at each time.
        """
        self._settle()
        return self._lost / (self._loudest or 1.0)

    def has_faded(self) -> bool:
        """Return whether the average keeps less than a tenth of the energy."""
        self._settle()
        return bool(self._levels[-1] < self._least_shares[-1] * self._levels[:-1].max())

    def loudest_channel(self, channels: np.ndarray) -> int:
        """Return the loudest of some channels, bool [channels]; the first of equal ones."""
        self._settle()
        levels = np.where(channels, self._levels[: self.num_channels], -1)
        return int((levels >= 0.99 * levels.max()).argmax())

    def are_same(self, one: int, other: int) -> bool:
        """Return whether two channels sound the same, whatever their offsets."""
        assert self._are_compared
        means = self._sums / max(1, self.num_frames)
        products = self._products - self.num_frames * np.outer(means, means)
        difference = products[one, one] + products[other, other] - 2 * products[one, other]
        return bool(difference <= SAME * products[one, one])


def least_shares(channels: int) -> np.ndarray:
    """Return the share of the loudest channel's energy below which a signal has lost its sound.

    Averaging makes one channel of many quieter, which is no loss and is allowed for.

    Returns:
        [signals]: of each channel and, of several, of their average.
    """
    shares = np.full(channels + (channels > 1), CANCELLED)
    shares[channels:] = CANCELLED * 4 / channels**2
    return shares


def dbfs(level: float) -> float:
    """Return a level, full scale 1, in decibels relative to full scale."""
    return 20 * log10(level) if level > 0 else -inf
