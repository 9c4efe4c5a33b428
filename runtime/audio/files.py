"""Audio files, arrays and standard input to mono samples at the model's rate, block by block.

Every change to the sound is listed in `AudioSource.notes`, for the user to read.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from math import inf, log10
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr
from soundfile import LibsndfileError, SoundFile

from ...errors import AudioError, UsageError
from .media import MEDIA_SUFFIXES, MediaFile, has_signature, is_media
from .samples import are_damaged, check_channels, check_rate, check_samples, describe_damage

BLOCK_SECONDS = 1.28  # read at a time: 16 tokens, the largest encoder call
# A WAV written to a pipe promises about this much, or twice as much
UNKNOWN_BYTES = 0x7FFFFFFF - (1 << 16)
QUIET_DBFS = -34.0  # upstream users report missed words on clips whose peak is below 0.02
AUTO_GAIN_PEAK = 0.95
GAINS = ("none", "auto")
SUFFIXES = (
    ".wav",
    ".flac",
    ".mp3",
    ".ogg",
    ".oga",
    ".opus",
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
    *MEDIA_SUFFIXES,
)


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

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 [n] at the model's rate, mono."""
        for block in _read(self._file, self._rate, self.name):
            yield block if self._gain == 1 else block * np.float32(self._gain)


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
        name, (file, is_raw) = "standard input", _spool_stdin(sample_rate)
        if is_raw:
            notes.append(f"read as raw 16-bit samples at {sample_rate} Hz")
    else:
        name, file = str(source), Path(source)
        _require_file(file)

    if isinstance(file, np.ndarray):
        length, peak, promised = len(file), float(np.abs(file).max(initial=0)), 0.0
    else:
        with _open(name, file) as sound:
            length, peak = 0, 0.0
            for block in _mono(sound, sample_rate, name):
                length += len(block)
                peak = max(peak, float(np.abs(block).max(initial=0)))
            promised = _promised_seconds(sound)
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


def find_audio(inputs: Iterable[str]) -> list[str]:
    """Every file that inputs name.

    A folder stands for the audio files below it, a pattern for what it matches.

    Raises:
        AudioError: a folder without audio, or a pattern that matches nothing.
        UsageError: an empty name, which would be the folder that one is in.
    """
    found: list[str] = []
    for name in inputs:
        if not name:
            raise UsageError("the name of a file is empty; is a variable of the shell not set?")
        path = Path(name)
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except OSError:  # too long a name: opening it says so
            is_folder, exists = False, True
        if is_folder:
            files = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            lacking = f"{name}: a folder without audio files ({', '.join(SUFFIXES)})"
        elif name != "-" and not exists and glob.has_magic(name):
            files = sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207, whose patterns cannot be absolute
            lacking = f"{name}: no such file, and as a pattern it matches none"
        else:
            found.append(name)
            continue
        if not files:
            raise AudioError(lacking)
        # A file that a pattern matched is not standard input
        found += ["./-" if str(file) == "-" else str(file) for file in files]
    return found


def dbfs(peak: float) -> float:
    """Decibels relative to full scale."""
    return 20 * log10(peak) if peak > 0 else -inf


def _read(file: Path | BinaryIO | np.ndarray, sample_rate: int, name: str) -> Iterator[np.ndarray]:
    """Mono blocks at `sample_rate`."""
    if isinstance(file, np.ndarray):
        size = int(BLOCK_SECONDS * sample_rate)
        yield from (file[start : start + size] for start in range(0, len(file), size))
    else:
        with _open(name, file) as sound:
            yield from _mono(sound, sample_rate, name)


def _mono(sound: SoundFile | MediaFile, sample_rate: int, name: str) -> Iterator[np.ndarray]:
    """The average of the channels, resampled, block by block."""
    resample, done = None, 0
    if sound.samplerate != sample_rate:
        resample = soxr.ResampleStream(
            sound.samplerate, sample_rate, 1, dtype="float32", quality="HQ"
        )
    for frames in _frames(sound, int(BLOCK_SECONDS * sound.samplerate), name):
        if (damaged := are_damaged(frames)).any():
            row, channel = np.argwhere(damaged)[0]
            at, what = (done + row) / sound.samplerate, describe_damage(float(frames[row, channel]))
            raise AudioError(f"{name}: the sample at {at:.2f} s {what}: the recording is damaged")
        done += len(frames)
        mono = frames.mean(1) if sound.channels > 1 else frames[:, 0]
        yield mono if resample is None else resample.resample_chunk(mono)
    if resample is not None:
        yield resample.resample_chunk(np.zeros(0, np.float32), last=True)


def _frames(sound: SoundFile | MediaFile, size: int, name: str) -> Iterator[np.ndarray]:
    """float32 [size, channels], the last block shorter."""
    if isinstance(sound, MediaFile):
        yield from sound.blocks(size)
        return
    try:
        while len(frames := sound.read(size, dtype="float32", always_2d=True)):
            yield frames
    except LibsndfileError as error:
        raise AudioError(
            f"{name}: damaged after {sound.tell() / sound.samplerate:.1f} s ({_reason(error)})"
        ) from error


@contextmanager
def _open(name: str, file: Path | BinaryIO) -> Iterator[SoundFile | MediaFile]:
    """Open sound by its bytes alone.

    Libraries give names a meaning: an address for FFmpeg, a format or a pipe for libsndfile.
    """
    with _reopen(name, file) as opened:
        try:
            sound = SoundFile(opened.fileno(), closefd=False)
        except (LibsndfileError, OSError) as error:
            if not is_media(name, opened):
                raise AudioError(
                    f"{name}: not a readable audio file ({_reason(error)}); convert it first: "
                    "ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"
                ) from error
            sound = MediaFile(name, opened)
        with sound:
            check_rate(name, sound.samplerate)
            check_channels(name, sound.channels)
            yield sound


def _reopen(name: str, file: Path | BinaryIO) -> FileIO:
    """A file at its beginning, without a buffer, so that its descriptor is there too."""
    try:
        if isinstance(file, Path):
            return FileIO(file)
        opened = FileIO(os.dup(file.fileno()))
        opened.seek(0)
        return opened
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from error


def _reason(error: LibsndfileError | OSError) -> str:
    return error.error_string if isinstance(error, LibsndfileError) else str(error)


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


def _require_file(path: Path) -> None:
    try:
        found = path.stat() if path.exists() else None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found is None:
        raise AudioError(f"{path}: no such file")
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f"{path}: cannot be read (Is a directory)")
    if not stat.S_ISREG(found.st_mode):  # read twice, from its beginning
        raise AudioError(
            f"{path}: expected a file, got a pipe or a device; transcribe - reads standard input"
        )
    if found.st_size == 0:
        raise AudioError(f"{path}: not a readable audio file: it has 0 bytes")


def _promised_seconds(sound: SoundFile | MediaFile) -> float:
    """The length that the header promises, 0 where it does not know.

    libsndfile corrects the length of a WAV that was cut off; only its log still says what the
    header says.
    """
    if isinstance(sound, MediaFile):
        return sound.promised_seconds
    frames = sound.frames
    if found := re.search(r"^data : (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE):
        promised, held = map(int, found.groups())
        frames = frames * promised // held if held and promised < UNKNOWN_BYTES else 0
    seconds = frames / sound.samplerate
    return seconds if seconds < 1e8 else 0


def _spool_stdin(sample_rate: int) -> tuple[BinaryIO, bool]:
    """Standard input as a seekable file, and whether it was raw.

    S16le at `sample_rate`, a WAV from here on.
    """
    import shutil
    import sys

    head = sys.stdin.buffer.read(12)
    spool = tempfile.TemporaryFile()  # noqa: SIM115, closed when the source is dropped
    if head.startswith((b"RIFF", b"RF64", b"fLaC", b"FORM", b"ID3")) or has_signature(head):
        spool.write(head)
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        return spool, False
    with SoundFile(spool, "w", sample_rate, 1, "PCM_16", format="WAV") as wav:
        rest = head
        while data := sys.stdin.buffer.read(1 << 20):
            whole = len(rest + data) // 2 * 2
            wav.buffer_write((rest + data)[:whole], dtype="int16")
            rest = (rest + data)[whole:]
        wav.buffer_write(rest[: len(rest) // 2 * 2], dtype="int16")
    spool.flush()
    return spool, True
