"""Open sound by its bytes alone: libsndfile reads it, or PyAV."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from soundfile import LibsndfileError, SoundFile

from ...errors import AudioError
from .media import MediaFile, is_media
from .samples import ArraySound, check_channels, check_rate

# A WAV written to a pipe promises about this much, or twice as much
UNKNOWN_BYTES = 0x7FFFFFFF - (1 << 16)


@contextmanager
def open_sound(
    name: str, file: Path | BinaryIO | ArraySound
) -> Iterator[SoundFile | MediaFile | ArraySound]:
    """Open sound by its bytes alone.

    Libraries give names a meaning: an address for FFmpeg, a format or a pipe for libsndfile.
    """
    if isinstance(file, ArraySound):
        yield file
        return
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


def read_frames(
    sound: SoundFile | MediaFile | ArraySound, size: int, name: str
) -> Iterator[np.ndarray]:
    """float32 [size, channels], the last block shorter."""
    if not isinstance(sound, SoundFile):
        yield from sound.blocks(size)
        return
    try:
        while len(frames := sound.read(size, dtype="float32", always_2d=True)):
            yield frames
    except LibsndfileError as error:
        raise AudioError(
            f"{name}: damaged after {sound.tell() / sound.samplerate:.1f} s ({_reason(error)})"
        ) from error


def require_file(path: Path) -> None:
    """Refuse what is no file, or is empty.

    Raises:
        AudioError: it is not there, cannot be read, or is a folder, a pipe or a device.
    """
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


def promised_seconds(sound: SoundFile | MediaFile | ArraySound) -> float:
    """The length that the header promises, 0 where it does not know.

    libsndfile corrects the length of a WAV that was cut off; only its log still says what the
    header says.
    """
    if not isinstance(sound, SoundFile):
        return sound.promised_seconds
    frames = sound.frames
    if found := re.search(r"^data : (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE):
        promised, held = map(int, found.groups())
        frames = frames * promised // held if held and promised < UNKNOWN_BYTES else 0
    seconds = frames / sound.samplerate
    return seconds if seconds < 1e8 else 0
