"""Audio files, arrays and standard input to mono samples at the model's rate, block by block.

Every change to the sound is listed in `AudioSource.notes`, for the user to read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soxr
from soundfile import SoundFile

from ...arguments import accepts
from ...errors import AudioError
from .formats import open_sound, promised_seconds, read_frames, require_file
from .inputs import open_input
from .media import MediaFile
from .meter import SoundMeter
from .mixing import CHANNELS, GAIN, Mix, choose_mix, choose_split
from .samples import ArraySound, are_damaged, describe_damage
from .spool import spool_stdin

BLOCK_SECONDS = 1.28  # read at a time: 16 tokens, the largest encoder call


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class AudioSource:
    """Audio that was looked through once: known to be finite, its length and level measured."""

    name: str
    duration: float  # seconds
    notes: tuple[str, ...]  # what is done to the sound, and what a user should know of it
    _file: Path | BinaryIO | np.ndarray | ArraySound = field(repr=False)
    _rate: int = field(repr=False)
    _mix: Mix = field(repr=False)
    channel: int | None = None  # the one that this is, where each is a source of its own
    num_channels: int = 1  # of the recording
    parts: tuple[AudioSource, ...] = field(default=(), repr=False)  # a source a channel, if split

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 [n] at the model's rate, mono."""
        for block in _read(self._file, self._rate, self._mix, self.name):
            yield self._mix.amplify(block)


@accepts(gain=GAIN, channels=CHANNELS)
def open_audio(
    source: Any, sample_rate: int, *, gain: str = "none", channels: str = "mix"
) -> AudioSource:
    """Look through a file, `-` (standard input) or samples in memory.

    Args:
        source: a path to anything that libsndfile or PyAV reads; `-` for such a file or raw s16le
            at `sample_rate` on standard input; or what else `open_input` takes.
        sample_rate: the model's, in Hz.
        gain: `none`, or `auto` to bring speech to the loudness of most recordings.
        channels: `mix` averages them, or takes one where they cancel each other; `left` and
            `right` take the first and the second; `split` makes each a source of its own.

    Raises:
        AudioError: not readable, without sound, not finite, without such a channel.
        DeviceError: what it takes to read it is not installed.
    """
    notes: list[str] = []
    if isinstance(source, str | Path) and str(source) == "-":
        name, (file, is_raw) = "standard input", spool_stdin(sample_rate)
        if is_raw:
            notes.append(f"read as raw 16-bit samples at {sample_rate} Hz")
    else:
        name, file = open_input(source, notes)
        if isinstance(file, Path):
            require_file(file)

    if isinstance(file, np.ndarray):
        meter, duration, promised = SoundMeter(sample_rate, 1), len(file) / sample_rate, 0.0
        for block in _blocks_of(file, sample_rate):
            meter.push(block)
    else:
        with open_sound(name, file) as sound:
            meter = SoundMeter(sound.samplerate, sound.channels)
            for frames in _frames(sound, name):
                meter.push(frames)
            duration = meter.num_frames / sound.samplerate
            promised = promised_seconds(sound)
            notes += _changes(sound, sample_rate)
    meter.finish()
    if promised > duration + 0.1:
        notes.append(
            f"cut off: the header promises {promised:.1f} s, the file holds {duration:.1f} s"
        )
    parts: tuple[AudioSource, ...] = ()
    mix = choose_mix(meter, "mix" if channels == "split" else channels, gain, name)
    if channels == "split":
        mixes, more = choose_split(meter, gain)
        parts = tuple(
            AudioSource(name, duration, each.notes, file, sample_rate, each, channel)
            for channel, each in mixes.items()
        )
        notes += more
    else:
        notes += mix.notes
    opened = AudioSource(
        name, duration, tuple(notes), file, sample_rate, mix, None, meter.num_channels, parts
    )
    if not isinstance(file, Path | np.ndarray | ArraySound):
        weakref.finalize(opened, file.close)
    return opened


def _read(
    file: Path | BinaryIO | np.ndarray | ArraySound, sample_rate: int, mix: Mix, name: str
) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate`."""
    if isinstance(file, np.ndarray):
        yield from mix.mono(_blocks_of(file, sample_rate), sample_rate)
        return
    with open_sound(name, file) as sound:
        mono = mix.mono(_frames(sound, name), sound.samplerate)
        if sound.samplerate == sample_rate:
            yield from mono
            return
        resampler = soxr.ResampleStream(
            sound.samplerate, sample_rate, 1, dtype="float32", quality="HQ"
        )
        for block in mono:
            yield resampler.resample_chunk(block)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _blocks_of(samples: np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
    """Float32 [n, 1] of an array."""
    size = int(BLOCK_SECONDS * sample_rate)
    yield from (samples[at : at + size, None] for at in range(0, len(samples), size))


def _frames(sound: SoundFile | MediaFile, name: str) -> Iterator[np.ndarray]:
    """Float32 [n, channels] of a file, none of them damaged."""
    done = 0
    for frames in read_frames(sound, int(BLOCK_SECONDS * sound.samplerate), name):
        if (damaged := are_damaged(frames)).any():
            row, channel = np.argwhere(damaged)[0]
            at, what = (done + row) / sound.samplerate, describe_damage(float(frames[row, channel]))
            raise AudioError(f"{name}: the sample at {at:.2f} s {what}: the recording is damaged")
        done += len(frames)
        yield frames


def _changes(sound: SoundFile | MediaFile | ArraySound, sample_rate: int) -> Iterator[str]:
    """What a user should know of a file that was read, besides its level and its length."""
    if isinstance(sound, MediaFile) and sound.num_tracks > 1:
        yield f"the first of {sound.num_tracks} audio tracks"
    if isinstance(sound, MediaFile) and sound.hole_seconds:
        yield f"holds no sound for {sound.hole_seconds:.1f} s in all, which are silence now"
    if sound.samplerate != sample_rate:
        yield f"resampled from {sound.samplerate} Hz to {sample_rate} Hz"
