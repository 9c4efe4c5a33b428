"""Mix the channels of a recording to mono: choose channels, remove an offset, set the gain.

A `SoundMeter` measures a recording once. What it has measured decides a `Mix`, which is then
applied block by block. Sound that needs nothing comes out as it went in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import exp, pi

import numpy as np

from ...arguments import choice
from ...errors import AudioError
from .meter import SoundMeter, dbfs

CHANNELS, GAIN = choice(("mix", "split", "left", "right")), choice(("none", "auto"))

# dBFS by the meter. The peaks of speech are 12 to 17 dB above: it does not clip at -20, where the
# embedded samples are; and upstream users report missed words where peaks are below -34 dBFS.
TARGET_LOUDNESS, QUIET_LOUDNESS = -20.0, -48.0
LARGEST_GAIN = 70.0  # dB: sound that needs more is the noise of a converter

MOST_LOST = 1 / 3  # share of the sound that the average may lose
LEAST_LOST = 0.01  # share of the sound whose loss is noted
CORNER_HZ = 10.0  # of the filter that removes an offset; the deepest voices begin at 60


@dataclass(frozen=True, slots=True)
class Mix:
    """The way in which the channels of a recording become mono."""

    channels: tuple[int, ...]  # indices of those that are averaged
    offset: float | None = None  # at the beginning of the sound; None if none is removed
    gain: float = 1.0  # a factor; what exceeds full scale is clipped
    notes: tuple[str, ...] = ()  # for the user

    def mono(self, frames: Iterable[np.ndarray], sample_rate: int) -> Iterator[np.ndarray]:
        """Yield mono float32 [n] for float32 [n, channels], without the offset, before the gain."""
        remove = None if self.offset is None else OffsetFilter(sample_rate, self.offset)
        for block in frames:
            if len(self.channels) == 1:
                mono = block[:, self.channels[0]]
            elif len(self.channels) == 2:  # as mean() does it, in a tenth of its time
                mono = (np.float32(0) + block[:, self.channels[0]] + block[:, self.channels[1]]) / 2
            else:  # in one order of channels, whatever the order in memory
                block = np.ascontiguousarray(block)
                is_all = len(self.channels) == block.shape[1]
                mono = (block if is_all else block[:, self.channels]).mean(1)
            yield mono if remove is None else remove(mono)

    def amplify(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 [n] with the gain applied."""
        if self.gain == 1:
            return samples
        return (samples * np.float32(self.gain)).clip(-1, 1)


class OffsetFilter:
    """A high-pass filter of one pole, which removes an offset, even one that drifts or jumps.

    Subtracting the mean would remove only an offset that is the same throughout.
    """

    def __init__(self, sample_rate: int, offset: float):
        """Begin with the offset of the first samples, so that the filter need not settle."""
        self._pole = exp(-2 * pi * CORNER_HZ / sample_rate)
        self._longest = sample_rate  # samples at a time, so that powers of the pole do not vanish
        self._offset = offset
        self._powers = np.zeros(0)  # of the pole, from the first on

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the next float32 [n] without what is below 10 Hz."""
        starts = range(0, len(samples), self._longest)
        parts = [self._filter(samples[start : start + self._longest]) for start in starts]
        return np.concatenate(parts) if parts else samples

    def _filter(self, samples: np.ndarray) -> np.ndarray:
        # offset[i] = pole * offset[i - 1] + (1 - pole) * samples[i], as a sum
        if len(self._powers) != len(samples):
            self._powers = self._pole ** np.arange(1, len(samples) + 1)
        powers = self._powers
        offsets = powers * (self._offset + (1 - self._pole) * np.cumsum(samples / powers))
        self._offset = float(offsets[-1])
        return (samples - offsets).astype(np.float32)


def choose_mix(meter: SoundMeter, channels: str, gain: str, name: str = "sound") -> Mix:
    """Choose how all channels of a recording become one.

    Args:
        meter: it has measured the whole recording.
        channels: `mix` for their average, or for the one that is taken where they cancel each
            other; `left` or `right` for the first or the second.
        gain: `none`, or `auto` for the loudness of the embedded samples.
        name: of the recording, for messages.

    Raises:
        AudioError: there is no second channel.
    """
    count = meter.num_channels
    if channels == "right" and count == 1:
        raise AudioError(f"{name}: no right channel: expected 2 or more channels, got 1")
    if channels == "mix" and count > 1:
        return _mix_all(meter, gain)
    channel = int(channels == "right")
    notes = (f"channel {channel + 1} of {count} taken",) if count > 1 else ()
    return _level(Mix((channel,), notes=notes), meter, channel, gain)


def choose_split(meter: SoundMeter, gain: str) -> tuple[dict[int, Mix], list[str]]:
    """Choose a mix for each channel on its own.

    Returns:
        The mix of each channel by its index, and notes on all, also on what is left out.
    """
    silent, mixes, left_out = meter.silent_channels(), dict[int, Mix](), list[str]()
    for channel in range(meter.num_channels):
        same = next((other for other in mixes if meter.are_same(channel, other)), None)
        if channel in silent and len(silent) < meter.num_channels:
            left_out.append(f"channel {channel + 1} is silent: left out")
        elif same is not None:
            left_out.append(f"channel {channel + 1} is the same as channel {same + 1}: left out")
        else:
            mixes[channel] = _level(Mix((channel,)), meter, channel, gain)
    names = channel_names(meter.num_channels) or ("",)
    notes = [f"{len(mixes)} channels, each on its own"] if len(mixes) > 1 else []
    return mixes, [
        *notes,
        *left_out,
        *(
            f"{names[channel]}: {note}".removeprefix(": ")
            for channel, mix in mixes.items()
            for note in mix.notes
        ),
    ]


def _mix_all(meter: SoundMeter, gain: str) -> Mix:
    """Choose between the average, which loses what cancels, and the best of the channels."""
    count, silent = meter.num_channels, meter.silent_channels()
    heard = tuple(channel for channel in range(count) if channel not in silent)
    heard = heard or tuple(range(count))
    if len(heard) == 1:
        note = f"channel {heard[0] + 1} of {count} taken, the others are silent"
        return _level(Mix(heard, notes=(note,)), meter, heard[0], gain)

    # Take the average, unless it loses much and the best channel alone loses less
    lost = meter.shares_lost()
    best = meter.loudest_channel(lost[:-1] <= lost[:-1].min() + LEAST_LOST)
    if meter.has_faded() or (lost[-1] > MOST_LOST and lost[best] < lost[-1]):
        note = f"channels cancel each other (opposite phase): channel {best + 1} taken"
        if lost[best] > LEAST_LOST:
            note += f", {_share(lost[best])} is on others only; --channels split keeps it"
        return _level(Mix((best,), notes=(note,)), meter, best, gain)
    notes = [f"{count} channels averaged"]
    if len(heard) < count:
        notes = [f"{len(heard)} of {count} channels averaged, the others are silent"]
    if lost[-1] > LEAST_LOST:
        notes.append(
            f"channels cancel each other (opposite phase) in {_share(lost[-1])}; --channels left, "
            "right or split keeps it"
        )
    return _level(Mix(heard, notes=tuple(notes)), meter, -1, gain, count / len(heard))


def _share(share: float) -> str:
    return f"{100 * share:.0f} % of the sound"


def _level(mix: Mix, meter: SoundMeter, signal: int, gain: str, factor: float = 1.0) -> Mix:
    """Return a mix with its offset, its gain and notes on its level.

    Args:
        mix: one whose channels are chosen.
        meter: it has measured the recording.
        signal: the index of the measured signal that the mix takes.
        gain: `none` or `auto`.
        factor: by which the mix is larger than that signal.
    """
    if not meter.num_frames:
        return mix

    # Remove an offset
    notes, offset = list(mix.notes), meter.offset(signal)
    if offset is not None:
        size = f"±{factor * offset.size:.2g}"
        if offset.is_constant:
            size = f"{factor * offset.mean:.2g}"
        kind = "constant" if offset.is_constant else "drifting"
        notes.append(f"{kind} offset of {size} removed")

    # Judge the level, and set the gain
    peak = factor * meter.peak(signal, offset.mean if offset else 0.0)
    loudness, scale = dbfs(factor * meter.loudness(signal)), 1.0
    if meter.is_silent(signal):
        notes.append("digital silence")
    elif gain == "auto":
        decibels = min(TARGET_LOUDNESS - loudness, LARGEST_GAIN)
        scale = 10 ** (decibels / 20)
        notes.append(f"gain {decibels:+.1f} dB{', which clips peaks' if scale * peak > 1 else ''}")
    elif loudness > 0:  # impossible for floats of full scale 1
        scale = 10 ** ((TARGET_LOUDNESS - loudness) / 20)
        notes.append(
            f"far above full scale, as integers stored as floats are: gain "
            f"{TARGET_LOUDNESS - loudness:+.1f} dB"
        )
    elif loudness < QUIET_LOUDNESS:
        notes.append(f"quiet, its loudness is {loudness:.0f} dBFS; --gain auto may help")
    elif peak > 1:
        notes.append(f"exceeds full scale, its peak is {dbfs(peak):+.1f} dBFS")
    start = None if offset is None else factor * offset.start
    return replace(mix, offset=start, gain=scale, notes=tuple(notes))


def channel_names(channels: int) -> tuple[str, ...]:
    """Return the names of a recording's channels; empty if there is only one."""
    if channels == 2:
        return ("left", "right")
    return tuple(f"channel {i + 1}" for i in range(channels)) if channels > 1 else ()
