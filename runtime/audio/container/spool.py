"""Temporary copies of input that can be read only once, such as a pipe."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from io import BytesIO, FileIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from ....errors import AudioError, DeviceError, StorageError
from ....limits import SPOOL
from .formats import RawSound, Sound
from .kinds import HEAD_BYTES, is_sound

PIECE_BYTES = 1 << 20
STDIN = 0
RAW_ADVICE = "raw samples are read with --raw s16le --rate HZ"


def is_read_once(path: Path) -> bool:
    """Return whether a path is a pipe, a device or a socket, which is read only once."""
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def spool(name: str, path: Path | None, raw: RawSound | None) -> BinaryIO:
    """Copy a pipe or a device, or standard input if `path` is None, into a temporary file.

    Input that does not begin as sound is refused without waiting for the rest of it.

    Raises:
        AudioError: not sound, longer than any recording, or not readable.
        DeviceError: what it takes to read it is not installed.
        StorageError: there is no folder for temporary files, or it is full.
    """
    try:
        source = FileIO(path) if path else FileIO(os.dup(STDIN))
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from error
    with source:
        head = _read(name, source, HEAD_BYTES, whole=True)
        rest = _read(name, source, PIECE_BYTES, whole=True) if len(head) == HEAD_BYTES else b""
        if raw is None:
            _require_sound(name, head, rest)
        elif not head:
            raise AudioError(f"{name}: nothing: 0 bytes")
        return keep(name, chain((head + rest,), _pieces(name, source)))


def keep(name: str, pieces: Iterable[bytes]) -> BinaryIO:
    """Write the pieces of a file into a temporary file, and return that.

    Raises:
        AudioError: they are longer than any recording.
        StorageError: there is no folder for temporary files, or it is full.
    """
    try:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, closed with its source
    except OSError as error:
        raise StorageError(
            f"{name}: there is no folder for temporary files, where it is kept while it is "
            f"read ({error.strerror or error}); set TMPDIR to one"
        ) from error
    size = 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > SPOOL:
                raise AudioError(
                    f"{name}: longer than {SPOOL >> 30} GB, which no recording is; "
                    "is it a device that never ends?"
                )
            _write(name, file, piece)
    except BaseException:
        file.close()
        raise
    return file


def _pieces(name: str, source: FileIO) -> Iterator[bytes]:
    """Yield the rest of a source in pieces."""
    while piece := _read(name, source, PIECE_BYTES):
        yield piece


def _read(name: str, source: FileIO, size: int, *, whole: bool = False) -> bytes:
    """Return what has arrived, `size` bytes at most; exactly `size` before the end, if `whole`."""
    data = b""
    try:
        while len(data) < size and (piece := source.read(size - len(data))):
            data += piece
            if not whole:
                break
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from error
    return data


def _write(name: str, file: BinaryIO, data: bytes) -> None:
    """Write all data to a temporary file.

    Raises:
        StorageError: its disk is full.
    """
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        folder = tempfile.gettempdir()
        raise StorageError(
            f"{folder}: {name} does not fit there, where it is kept while it is read "
            f"({error.strerror or error}); set TMPDIR to a folder with more room"
        ) from error


def _require_sound(name: str, head: bytes, rest: bytes) -> None:
    """Refuse input that neither begins like a known format nor is read as sound so far.

    Raises:
        AudioError: it is not sound.
        DeviceError: only PyAV could tell, and it is not installed.
    """
    if is_sound(head):
        return
    try:
        with Sound(name, BytesIO(head + rest)):
            return
    except AudioError as error:
        raise AudioError(f"{error}; {RAW_ADVICE}") from error
    except DeviceError:
        if head.strip(b"\0"):  # PyAV could tell
            raise
        raise AudioError(f"{name}: not a readable audio file; {RAW_ADVICE}") from None
