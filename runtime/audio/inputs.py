"""Recognise what a caller gives as audio: a path, the content of a file, samples in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...arguments import is_path, path_bytes
from ...errors import AudioError
from ...escaping import described, one_line, quoted
from .container.spool import keep
from .samples import LONGEST_REASON, ArraySound, as_array, check_samples, is_number

PIECE_BYTES = 1 << 20
EXPECTED = (
    "a path, the bytes or the open binary file of a recording, float samples [n] at the model's "
    "rate, or (samples, rate)"
)


def open_input(
    audio: Any, notes: list[str]
) -> tuple[str, Path | BinaryIO | np.ndarray | ArraySound]:
    """Return the name of what a caller gives as audio, and what it is read from.

    It is not changed, and later changes to it do not change what is read.

    Args:
        audio: text or an `os.PathLike` is a path. Bytes, and whatever has `read`, are the content
            of a file, from its beginning where that can be sought. Floats [n] are samples at the
            model's rate, of NumPy, of any library that shares its arrays, or in a list. With their
            rate, as (samples, rate), (rate, samples) or {"array": …, "sampling_rate": …}, they may
            be integers and have channels.
        notes: gets notes for the user on what is done to it.

    Raises:
        AudioError: something else, or its content cannot be read.
        StorageError: the content of a file finds no room in the temporary folder.
    """
    # A path
    if isinstance(audio, str | os.PathLike):
        path = Path(_checked_name(os.fsdecode(os.fspath(audio))))
        return str(path), path

    # A row of a data set
    if isinstance(audio, Mapping):
        if "sampling_rate" in audio and "array" in audio:  # as Hugging Face's datasets gives it
            return _recording(audio["array"], audio["sampling_rate"], notes)
        if audio.keys() == {"bytes", "path"}:  # the same, not decoded
            content, path = audio["bytes"], audio["path"]
            return open_input(path if content is None else content, notes)

    # The content of a file, or an open one
    if isinstance(audio, bytes | bytearray) or (
        isinstance(audio, memoryview) and audio.format in ("B", "b", "c")
    ):
        return "bytes", _kept([bytes(audio)], "bytes")
    if hasattr(audio, "read") and not isinstance(audio, type):
        name = getattr(audio, "name", None)
        name = name if isinstance(name, str) else "file"
        return name, _kept(_pieces(audio, name), name)

    # Samples with their rate
    if isinstance(audio, list | tuple) and audio:
        are_numbers = [is_number(each) for each in audio[:3]]
        if are_numbers == [False, True]:
            return _recording(audio[0], audio[1], notes)
        if are_numbers == [True, False]:
            return _recording(audio[1], audio[0], notes)
        if isinstance(audio[0], str | os.PathLike):
            raise AudioError(
                f"audio: expected one recording, got a {type(audio).__name__} of paths; "
                "transcribe_many takes several"
            )
        if isinstance(audio, tuple) and len(audio) == 2 and hasattr(audio[0], "__len__"):
            return _recording(audio[0], audio[1], notes)  # refuses such a rate

    # Samples alone
    if (values := as_array(audio)) is None:
        raise AudioError(f"audio: expected {EXPECTED}, got {described(audio)}")
    return "array", check_samples(values, "; give (samples, rate)").copy()


def _kept(pieces: Iterable[bytes], name: str) -> BinaryIO:
    """Return a temporary file with the content of a file.

    Raises:
        AudioError: it is empty.
    """
    file = keep(name, pieces)
    if not file.tell():
        file.close()
        raise AudioError(f"{name}: not a readable audio file: it has 0 bytes")
    return file


def _recording(
    samples: Any, rate: Any, notes: list[str]
) -> tuple[str, Path | BinaryIO | np.ndarray | ArraySound]:
    """Return samples with their rate as a recording, and note how integers are converted."""
    sound = ArraySound(samples, rate)
    if sound.bits:
        notes.append(f"integers of {sound.bits} bits, divided by their full scale")
    return "array", sound


def _pieces(file: Any, name: str) -> Iterator[bytes]:
    """Yield the content of an open file from its beginning, if it has one, and restore its place.

    Raises:
        AudioError: it is not binary, or cannot be read.
    """
    try:
        place = file.tell() if hasattr(file, "seekable") and file.seekable() else None
        if place is not None:
            file.seek(0)
        while piece := file.read(PIECE_BYTES):
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise TypeError(f"gives {type(piece).__name__}; open it in binary mode")
            yield bytes(piece)
        if piece is None:
            raise BlockingIOError("gives nothing yet; open it so that it waits")
        if place is not None:
            file.seek(place)
    except Exception as error:  # files of other libraries raise their own
        reason = one_line(str(error))[:LONGEST_REASON]
        raise AudioError(f"{quoted(name)}: cannot be read ({reason})") from error


def _checked_name(path: str) -> str:
    """Return a path if a file can have it as its name.

    Raises:
        AudioError: no file can; it may be the content of a file, given as text.
    """
    if is_path(path):
        return path
    if not path or "\0" in path:
        raise AudioError(f"audio: expected {EXPECTED}, got {quoted(path)}")
    length = len(path_bytes(path))
    raise AudioError(
        f"audio: {quoted(path)}: cannot be read (File name too long, {length:,} bytes); "
        "the content of a file is given as bytes"
    )
