"""Read audio files, arrays and standard input as mono samples at the model's rate, in blocks.

Every change to the sound is listed in `AudioSource.notes`, for the user to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np
import soxr

from ...arguments import accepts
from ...errors import AudioError
from .container.formats import RawSound, refuse_address, require_file
from .container.frames import Frames
from .container.spool import is_read_once, spool
from .inputs import open_input
from .meter import SoundMeter
from .mixing import CHANNELS, GAIN, Mix, choose_mix, choose_split
from .samples import ArraySound

BLOCK_SECONDS = 1.28  # read at a time: 16 tokens, the largest encoder call


class Readable(Protocol):
    """Frames that can be read more than once."""

    samplerate: int  # Hz

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] of so many seconds each, the last one shorter."""
        ...


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class AudioSource:
    """A recording that was read once, so that its length, level and losses are known."""

    name: str
    duration: float  # seconds
    notes: tuple[str, ...]  # for the user: what is done to the sound, what is odd about it
    losses: tuple[str, ...]  # for the user: what is damaged, cut off or not read
    _frames: Readable = field(repr=False)
    _rate: int = field(repr=False)
    _mix: Mix = field(repr=False)
    channel: int | None = None  # the index of this channel, if channels are split
    num_channels: int = 1  # of the recording
    parts: tuple[AudioSource, ...] = field(default=(), repr=False)  # a source per channel, if split
    _left_out: int = field(default=0, repr=False)  # samples at the beginning

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield mono float32 [n] at the model's rate."""
        left_out = self._left_out
        for block in _read(self._frames, self._rate, self._mix):
            block, left_out = block[left_out:], max(0, left_out - len(block))
            yield self._mix.amplify(block)

    def after(self, seconds: float) -> AudioSource:
        """Return the rest of the audio after so many seconds."""
        left_out = self._left_out + round(seconds * self._rate)
        return replace(self, duration=self.duration - seconds, _left_out=left_out)


@accepts(gain=GAIN, channels=CHANNELS)
def open_audio(
    source: Any,
    sample_rate: int,
    *,
    gain: str = "none",
    channels: str = "mix",
    raw: RawSound | None = None,
    closed: Event | None = None,
    name: str | None = None,
    most_seconds: float | None = None,
) -> AudioSource:
    """Open a file, `-` (standard input) or samples in memory, and read it once.

    Args:
        source: a path to anything that libsndfile or PyAV reads, a pipe or a device too; `-` for
            the same on standard input; or what else `open_input` takes.
        sample_rate: the model's, in Hz.
        gain: `none`, or `auto` to bring speech to the loudness of most recordings.
        channels: `mix` averages them, or takes one where they cancel each other; `left` and
            `right` take the first and the second; `split` makes each a source of its own.
        raw: the sample format of a file without a header.
        closed: ends the reading when it is set, in another thread.
        name: of the recording, for messages, if it is not to be that of the file.
        most_seconds: of sound; a longer recording is refused once that much of it is read.

    Raises:
        AudioError: not readable, without sound, nothing but damage, or too long; or its reading was
            ended.
        DeviceError: what it takes to read it is not installed.
        StorageError: what can be read only once does not fit into the folder of temporary files.
    """
    # Read it once
    notes: list[str] = []
    name, frames = _open(source, sample_rate, raw, notes, name)
    meter = SoundMeter(frames.samplerate, frames.channels, are_compared=channels == "split")
    for block in frames.blocks(BLOCK_SECONDS):
        if closed and closed.is_set():
            raise AudioError(f"{name}: was not read to its end")
        meter.push(block)
        if most_seconds is not None and meter.num_frames > most_seconds * frames.samplerate:
            raise too_long(name, most_seconds)
    meter.finish()
    duration, losses = meter.num_frames / frames.samplerate, frames.losses
    notes += _changes(frames, sample_rate)

    # Choose how its channels are heard
    parts: tuple[AudioSource, ...] = ()
    mix = choose_mix(meter, "mix" if channels == "split" else channels, gain, name)
    if channels == "split":
        mixes, more = choose_split(meter, gain)
        parts = tuple(
            AudioSource(name, duration, each.notes, losses, frames, sample_rate, each, channel)
            for channel, each in mixes.items()
        )
        notes += more
    else:
        notes += mix.notes
    count = meter.num_channels
    return AudioSource(
        name, duration, tuple(notes), losses, frames, sample_rate, mix, None, count, parts
    )


def too_long(name: str, most_seconds: float) -> AudioError:
    """Return the error for more sound than is taken."""
    most = f"{most_seconds / 3600:g} h" if most_seconds >= 3600 else f"{most_seconds:g} s"
    return AudioError(f"{name}: expected at most {most} of sound, got more; send it in pieces")


def require_whole(source: AudioSource) -> None:
    """Refuse a recording with losses, where all of it must be heard.

    Raises:
        AudioError: part of the recording could not be heard.
    """
    if source.losses:
        raise AudioError(f"{source.name}: expected a whole recording: {'; '.join(source.losses)}")


def _open(
    source: Any, sample_rate: int, raw: RawSound | None, notes: list[str], shown: str | None
) -> tuple[str, Frames | ArraySound]:
    """Return the name of a source, and its frames, which can be read more than once."""
    if isinstance(source, str | Path) and str(source) == "-":
        return "standard input", Frames("standard input", spool("standard input", None, raw), raw)
    if isinstance(source, str):
        refuse_address(source)
    name, found = open_input(source, notes)
    name = shown or name
    if isinstance(found, np.ndarray):
        return name, ArraySound(found, sample_rate)
    if isinstance(found, Path):
        require_file(found)
        found = spool(name, found, raw) if is_read_once(found) else found
    return name, found if isinstance(found, ArraySound) else Frames(name, found, raw)


def _read(frames: Readable, sample_rate: int, mix: Mix) -> Iterator[np.ndarray]:
    """Yield mono float32 [n] at `sample_rate`, before the gain."""
    mono = mix.mono(frames.blocks(BLOCK_SECONDS), frames.samplerate)
    if frames.samplerate == sample_rate:
        yield from mono
        return
    resampler = soxr.ResampleStream(
        frames.samplerate, sample_rate, 1, dtype="float32", quality="HQ"
    )
    for block in mono:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _changes(frames: Frames | ArraySound, sample_rate: int) -> Iterator[str]:
    """Yield notes for the user on how a source is read, other than its level and length."""
    if frames.raw:
        yield f"read as {frames.raw}"
    if frames.num_parts > 1:
        yield f"{frames.num_parts} recordings, one after the other"
    if frames.track:
        yield frames.track
    if frames.hole_seconds:
        yield f"holds no sound for {frames.hole_seconds:.1f} s in all, which are silence now"
    if frames.samplerate != sample_rate:
        yield f"resampled from {frames.samplerate} Hz to {sample_rate} Hz"
