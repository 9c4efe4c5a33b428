"""How the channels of a recording become mono: which are averaged, what is removed, how loud.

A `SoundMeter` listens to a recording once. What it has measured decides a `Mix`, which is then
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
LARGEST_GAIN = 70.0  # dB: what needs more is the noise of a converter

MOST_LOST = 1 / 3  # of the sound, where an average is still taken
LEAST_LOST = 0.01  # of the sound, from which it is said
CORNER_HZ = 10.0  # of the filter that removes an offset; the deepest voices begin at 60


@dataclass(frozen=True, slots=True)
class Mix:
    """How the frames of a recording become mono."""

    channels: tuple[int, ...]  # that are averaged
    offset: float | None = None  # with which the sound begins; None where there is none to remove
    gain: float = 1.0  # peaks that it lifts above full scale are clipped
    notes: tuple[str, ...] = ()  # what a user should know of this

    def mono(self, frames: Iterable[np.ndarray], sample_rate: int) -> Iterator[np.ndarray]:
        """Yield float32 [n] of float32 [n, channels], without the offset; without the gain yet."""
        remove = None if self.offset is None else OffsetFilter(sample_rate, self.offset)
        for block in frames:
            if len(self.channels) == 1:
                mono = block[:, self.channels[0]]
            elif len(self.channels) == block.shape[1]:
                mono = block.mean(1)
            else:
                mono = block[:, self.channels].mean(1)
            yield mono if remove is None else remove(mono)

    def amplify(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 [n] with the gain."""
        if self.gain == 1:
            return samples
        return (samples * np.float32(self.gain)).clip(-1, 1)


class OffsetFilter:
    """A high-pass of one pole, which removes an offset, also one that drifts or jumps.

    To subtract the mean would do only for one that is the same from the first sample to the last.
    """

    def __init__(self, sample_rate: int, offset: float):
        """Begin with the offset that the sound begins with, so that nothing has to settle."""
        self._pole = exp(-2 * pi * CORNER_HZ / sample_rate)
        self._longest = sample_rate  # samples at a time, whose powers are finite
        self._offset = offset

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return float32 [n] without what is below 10 Hz."""
        starts = range(0, len(samples), self._longest)
        parts = [self._filter(samples[start : start + self._longest]) for start in starts]
        return np.concatenate(parts) if parts else samples

    def _filter(self, samples: np.ndarray) -> np.ndarray:
        # offset[i] = pole * offset[i - 1] + (1 - pole) * samples[i], as a sum
        powers = self._pole ** np.arange(1, len(samples) + 1)
        offsets = powers * (self._offset + (1 - self._pole) * np.cumsum(samples / powers))
        self._offset = float(offsets[-1])
        return (samples - offsets).astype(np.float32)


def choose_mix(meter: SoundMeter, channels: str, gain: str, name: str = "sound") -> Mix:
    """Decide how all channels become one.

    Args:
        meter: that has measured the whole recording.
        channels: `mix` for their average, or for the one that is taken where they cancel each
            other; `left` or `right` for the first or the second.
        gain: `none`, or `auto` for the loudness of the embedded samples.
        name: of the recording.

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
    """Decide about each channel on its own.

    Returns:
        the mix of each channel by its number, and the notes of all: also of what is left out.
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
    """Decide between the average, which loses what cancels, and the best of the channels."""
    count, silent = meter.num_channels, meter.silent_channels()
    heard = tuple(channel for channel in range(count) if channel not in silent)
    heard = heard or tuple(range(count))
    if len(heard) == 1:
        note = f"channel {heard[0] + 1} of {count} taken, the others are silent"
        return _level(Mix(heard, notes=(note,)), meter, heard[0], gain)

    # The average, unless what it loses is much, and less with the best channel alone
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
    """Add the offset, the gain and what is to be said of the level.

    Args:
        mix: whose channels are decided.
        meter: that has measured them.
        signal: that it measured for them.
        gain: `none` or `auto`.
        factor: by which the mix is larger than the signal.
    """
    if not meter.num_frames:
        return mix
    notes, offset = list(mix.notes), meter.offset(signal)
    if offset is not None:
        size = f"±{factor * offset.size:.2g}"
        if offset.is_constant:
            size = f"{factor * offset.mean:.2g}"
        kind = "constant" if offset.is_constant else "drifting"
        notes.append(f"{kind} offset of {size} removed")

    peak = factor * meter.peak(signal, offset.mean if offset else 0.0)
    loudness, scale = dbfs(factor * meter.loudness(signal)), 1.0
    if meter.is_silent(signal):
        notes.append("digital silence")
    elif gain == "auto":
        decibels = min(TARGET_LOUDNESS - loudness, LARGEST_GAIN)
        scale = 10 ** (decibels / 20)
        notes.append(f"gain {decibels:+.1f} dB{', which clips peaks' if scale * peak > 1 else ''}")
    elif loudness > 0:  # which floats of full scale 1 cannot have
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
    """Return what the channels of a recording are called; the only one has no name."""
    if channels == 2:
        return ("left", "right")
    return tuple(f"channel {i + 1}" for i in range(channels)) if channels > 1 else ()
