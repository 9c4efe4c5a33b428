"""Audio files, arrays and standard input to mono samples at the model's rate, block by block.

Every change to the sound is listed in `AudioSource.notes`, for the user to read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, log10
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr
from soundfile import SoundFile

from ...errors import AudioError, UsageError
from .formats import open_sound, promised_seconds, read_frames, require_file
from .media import MediaFile
from .samples import are_damaged, check_samples, describe_damage
from .spool import spool_stdin

BLOCK_SECONDS = 1.28  # read at a time: 16 tokens, the largest encoder call
QUIET_DBFS = -34.0  # upstream users report missed words on clips whose peak is below 0.02
AUTO_GAIN_PEAK = 0.95
GAINS = ("none", "auto")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class AudioSource:
    """Audio that was looked through once: known to be finite, its length and peak measured."""

    name: str
    duration: float  # seconds
    peak: float  # full scale 1
    notes: tuple[str, ...]  # what is done to the sound, and what a user should know of it
    _file: Path | BinaryIO | np.ndarray
    _rate: int
    _gain: float
    _left_out: int = 0  # samples of the beginning

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 [n] at the model's rate, mono."""
        left_out = self._left_out
        for block in _read(self._file, self._rate, self.name):
            block, left_out = block[left_out:], max(0, left_out - len(block))
            yield block if self._gain == 1 else block * np.float32(self._gain)

    def after(self, seconds: float) -> AudioSource:
        """Return the rest of the audio behind a time."""
        left_out = self._left_out + round(seconds * self._rate)
        return replace(self, duration=self.duration - seconds, _left_out=left_out)


def open_audio(
    source: str | Path | np.ndarray, sample_rate: int, *, gain: str = "none"
) -> AudioSource:
    """Look through a file, `-` (standard input) or an array.

    Args:
        source: a path to anything that libsndfile or PyAV reads; `-` for such a file or raw s16le
            at `sample_rate` on standard input; or a float array [n] at `sample_rate`.
        sample_rate: the model's, in Hz.
        gain: `none`, or `auto` to scale the peak to 0.95.

    Raises:
        AudioError: not readable, without sound, not finite.
        DeviceError: what it takes to read it is not installed.
    """
    if gain not in GAINS:
        raise UsageError(f"gain: expected one of {list(GAINS)}, got {gain!r}")
    notes: list[str] = []
    if isinstance(source, np.ndarray):
        name, file = "array", check_samples(source)
    elif str(source) == "-":
        name, (file, is_raw) = "standard input", spool_stdin(sample_rate)
        if is_raw:
            notes.append(f"read as raw 16-bit samples at {sample_rate} Hz")
    else:
        name, file = str(source), Path(source)
        require_file(file)

    if isinstance(file, np.ndarray):
        length, peak, promised = len(file), float(np.abs(file).max(initial=0)), 0.0
    else:
        with open_sound(name, file) as sound:
            length, peak = 0, 0.0
            for block in _mono(sound, sample_rate, name):
                length += len(block)
                peak = max(peak, float(np.abs(block).max(initial=0)))
            promised = promised_seconds(sound)
            notes += _changes(sound, sample_rate)
    duration = length / sample_rate
    if promised > duration + 0.1:
        notes.append(
            f"cut off: the header promises {promised:.1f} s, the file holds {duration:.1f} s"
        )
    factor = AUTO_GAIN_PEAK / peak if gain == "auto" and peak > 0 else 1.0
    if factor != 1:
        notes.append(f"gain {20 * log10(factor):+.1f} dB")
    elif dbfs(peak) < QUIET_DBFS and length:
        level = (
            "digital silence"
            if peak == 0
            else f"quiet, its peak is {dbfs(peak):.0f} dBFS; --gain auto may help"
        )
        notes.append(level)
    elif peak > 1:
        notes.append(f"exceeds full scale, its peak is {dbfs(peak):+.1f} dBFS")
    opened = AudioSource(name, duration, peak, tuple(notes), file, sample_rate, factor)
    if not isinstance(file, Path | np.ndarray):
        weakref.finalize(opened, file.close)
    return opened


def dbfs(peak: float) -> float:
    """Decibels relative to full scale."""
    return 20 * log10(peak) if peak > 0 else -inf


def _read(file: Path | BinaryIO | np.ndarray, sample_rate: int, name: str) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate`."""
    if isinstance(file, np.ndarray):
        size = int(BLOCK_SECONDS * sample_rate)
        yield from (file[start : start + size] for start in range(0, len(file), size))
    else:
        with open_sound(name, file) as sound:
            yield from _mono(sound, sample_rate, name)


def _mono(sound: SoundFile | MediaFile, sample_rate: int, name: str) -> Iterator[np.ndarray]:
    """The average of the channels, resampled, block by block."""
    resample, done = None, 0
    if sound.samplerate != sample_rate:
        resample = soxr.ResampleStream(
            sound.samplerate, sample_rate, 1, dtype="float32", quality="HQ"
        )
    for frames in read_frames(sound, int(BLOCK_SECONDS * sound.samplerate), name):
        if (damaged := are_damaged(frames)).any():
            row, channel = np.argwhere(damaged)[0]
            at, what = (done + row) / sound.samplerate, describe_damage(float(frames[row, channel]))
            raise AudioError(f"{name}: the sample at {at:.2f} s {what}: the recording is damaged")
        done += len(frames)
        mono = frames.mean(1) if sound.channels > 1 else frames[:, 0]
        yield mono if resample is None else resample.resample_chunk(mono)
    if resample is not None:
        yield resample.resample_chunk(np.zeros(0, np.float32), last=True)


def _changes(sound: SoundFile | MediaFile, sample_rate: int) -> Iterator[str]:
    """What a user should know of a file that was read, besides its level and its length."""
    if isinstance(sound, MediaFile) and sound.num_tracks > 1:
        yield f"the first of {sound.num_tracks} audio tracks"
    if isinstance(sound, MediaFile) and sound.hole_seconds:
        yield f"holds no sound for {sound.hole_seconds:.1f} s in all, which are silence now"
    if sound.samplerate != sample_rate:
        yield f"resampled from {sound.samplerate} Hz to {sample_rate} Hz"
    if sound.channels > 1:
        yield f"{sound.channels} channels averaged"
