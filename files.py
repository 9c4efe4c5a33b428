"""Files that are written whole, hashed in pieces, and made to last."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import StorageError

PIECE_SIZE = 16 << 20  # bytes hashed apart, because browsers cannot hash a stream


@dataclass(frozen=True, slots=True)
class FileSpec:
    """Size and hashes of one file."""

    size: int
    sha256: str
    pieces: tuple[str, ...]  # sha256 of every 16 MiB, where there is more than one

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> FileSpec:
        """The inverse of `asdict`, after JSON."""
        return cls(values["size"], values["sha256"], tuple(values["pieces"]))


def hash_file(path: Path) -> FileSpec:
    """Size, sha256 of the whole and of every 16 MiB piece."""
    whole, pieces, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_SIZE):
            size += len(piece)
            whole.update(piece)
            pieces.append(hashlib.sha256(piece).hexdigest())
    return FileSpec(size, whole.hexdigest(), tuple(pieces) if len(pieces) > 1 else ())


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that its name only ever stands for the whole content, after a power cut too.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when it is whole.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        fsync_dir(path.parent)
    except BaseException as error:  # a signal too
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise


def fsync_dir(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the system offers that."""
    with suppress(OSError):  # Windows opens no folders, and some network file systems flush none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def disk_of(folder: Path) -> tuple[Path, int]:
    """Return where a folder is or will be, and the bytes that are free there."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return place, shutil.disk_usage(place).free


def require_disk(needs: Mapping[Path, int]) -> None:
    """Compare the bytes that are to be written below these folders with what their disks have free.

    Raises:
        StorageError: a disk is too small.
    """
    disks: dict[int, int] = {}
    for folder, num_bytes in needs.items():
        place, free = disk_of(folder)
        disk = place.stat().st_dev
        disks[disk] = disks.get(disk, 0) + num_bytes
        if disks[disk] > free:
            raise StorageError(
                f"{folder}: {disks[disk] / 1e6:,.1f} MB of disk are needed, {place} has "
                f"{free / 1e6:,.1f} MB free; free space, or choose another disk: HF_HOME for "
                "downloads, --output for artifacts"
            )
