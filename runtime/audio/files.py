"""Audio files, arrays and standard input to mono samples at the model's rate, block by block.

Every change to the sound is listed in `AudioSource.notes`, for the user to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr

from ...errors import UsageError
from .formats import RawSound, refuse_address, require_file
from .frames import Frames
from .samples import check_samples
from .spool import is_read_once, spool

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
    losses: tuple[str, ...]  # what of it could not be heard: damaged, cut off, not read
    _frames: Frames | np.ndarray
    _rate: int
    _gain: float

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 [n] at the model's rate, mono."""
        for block in _read(self._frames, self._rate):
            yield block if self._gain == 1 else block * np.float32(self._gain)


def open_audio(
    source: str | Path | np.ndarray,
    sample_rate: int,
    *,
    gain: str = "none",
    raw: RawSound | None = None,
) -> AudioSource:
    """Look through a file, `-` (standard input) or an array.

    Args:
        source: a path to anything that libsndfile or PyAV reads, a pipe or a device too; `-` for
            the same on standard input; or a float array [n] at `sample_rate`.
        sample_rate: the model's, in Hz.
        gain: `none`, or `auto` to scale the peak to 0.95.
        raw: how a file without a header is to be read.

    Raises:
        AudioError: not readable, without sound, nothing but damage.
        DeviceError: what it takes to read it is not installed.
        StorageError: what can be read only once does not fit into the folder of temporary files.
    """
    if gain not in GAINS:
        raise UsageError(f"gain: expected one of {list(GAINS)}, got {gain!r}")
    notes: list[str] = []
    losses: tuple[str, ...] = ()
    if isinstance(source, np.ndarray):
        name, frames = "array", check_samples(source)
        length, peak = len(frames), float(np.abs(frames).max(initial=0))
    else:
        name, file = _file(source, raw)
        frames = Frames(name, file, raw)
        length, peak = 0, 0.0
        for block in _mono(frames, sample_rate):
            length += len(block)
            peak = max(peak, float(np.abs(block).max(initial=0)))
        losses = frames.losses
        notes += _changes(frames, sample_rate)
    duration = length / sample_rate
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
    return AudioSource(name, duration, peak, tuple(notes), losses, frames, sample_rate, factor)


def _file(source: str | Path, raw: RawSound | None) -> tuple[str, Path | BinaryIO]:
    """Return the name of a source, and a file that can be read more than once."""
    if str(source) == "-":
        return "standard input", spool("standard input", None, raw)
    refuse_address(str(source))
    path = Path(source)
    require_file(path)
    return str(source), spool(str(source), path, raw) if is_read_once(path) else path


def dbfs(peak: float) -> float:
    """Decibels relative to full scale."""
    return 20 * log10(peak) if peak > 0 else -inf


def _read(frames: Frames | np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate`."""
    if isinstance(frames, np.ndarray):
        size = int(BLOCK_SECONDS * sample_rate)
        yield from (frames[start : start + size] for start in range(0, len(frames), size))
    else:
        yield from _mono(frames, sample_rate)


def _mono(frames: Frames, sample_rate: int) -> Iterator[np.ndarray]:
    """The average of the channels, resampled, block by block."""
    resample = None
    if frames.samplerate != sample_rate:
        resample = soxr.ResampleStream(
            frames.samplerate, sample_rate, 1, dtype="float32", quality="HQ"
        )
    for block in frames.blocks(BLOCK_SECONDS):
        mono = block.mean(1) if frames.channels > 1 else block[:, 0]
        yield mono if resample is None else resample.resample_chunk(mono)
    if resample is not None:
        yield resample.resample_chunk(np.zeros(0, np.float32), last=True)


def _changes(frames: Frames, sample_rate: int) -> Iterator[str]:
    """What a user should know of a file that was read, besides its level and its length."""
    if frames.raw:
        yield f"read as {frames.raw}"
    if frames.num_parts > 1:
        yield f"{frames.num_parts} recordings, one behind the other"
    if frames.num_tracks > 1:
        yield f"the first of {frames.num_tracks} audio tracks"
    if frames.hole_seconds:
        yield f"holds no sound for {frames.hole_seconds:.1f} s in all, which are silence now"
    if frames.samplerate != sample_rate:
        yield f"resampled from {frames.samplerate} Hz to {sample_rate} Hz"
    if frames.channels > 1:
        yield f"{frames.channels} channels averaged"
