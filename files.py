"""Write files atomically, hash them in pieces, lock them, check disks and links."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from .decode import Count, Sha256
from .errors import StorageError
from .limits import LONGEST_NAME

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows
_BINARY = getattr(os, "O_BINARY", 0)  # only on Windows
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # what Git LFS checks out at first
PIECE_SIZE = 16 << 20  # bytes with a hash of their own, because browsers cannot hash a stream


@dataclass(frozen=True, slots=True)
class FileSpec:
    """The size and the hashes of a file."""

    size: Count
    sha256: Sha256
    pieces: tuple[Sha256, ...]  # sha256 of every 16 MiB, where there is more than one

    def __post_init__(self):
        expected = -(-self.size // PIECE_SIZE) if self.size > PIECE_SIZE else 0
        if len(self.pieces) != expected:
            raise ValueError(
                f"{self.size:,} bytes: expected {expected} hashes of pieces, got {len(self.pieces)}"
            )


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file holds only Git LFS's pointer to its content.

    A clone without Git LFS has such pointers in the place of all large files.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            return file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return False


def hash_file(path: Path) -> FileSpec:
    """Return a file's size, its sha256 and that of every 16 MiB piece."""
    whole, pieces, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_SIZE):
            size += len(piece)
            whole.update(piece)
            pieces.append(hashlib.sha256(piece).hexdigest())
    return FileSpec(size, whole.hexdigest(), tuple(pieces) if len(pieces) > 1 else ())


def size_of(path: Path) -> int | None:
    """Return a regular file's size in bytes; None if there is none, or the name is impossible."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_below(folder: Path, path: Path) -> bool:
    """Return whether a path below a folder stays there when links are followed.

    Links from a snapshot of the Hugging Face cache to its `blobs` count as staying.
    """
    place, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    in_cache = home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--")
    return place.is_relative_to(home) or (in_cache and place.parent == blobs)


def fitted_name(name: str, suffix: int) -> str:
    """Return a name that takes a suffix of so many bytes: a long one is cut, and gets a hash."""
    most = LONGEST_NAME - suffix
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    digest = "~" + hashlib.sha256(content).hexdigest()[:8]
    short = name
    while len(os.fsencode(short)) > most - len(digest):
        short = short[:-1]
    return short + digest


def open_partial(folder: Path) -> tuple[Path, int]:
    """Make and open a file under a random temporary name.

    Returns:
        Its path, whose name `is_partial` recognises, and a descriptor to read and write.

    Raises:
        OSError: the folder cannot be written.
    """
    path = _partial_path(folder)
    return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY, 0o666)


def make_partial_folder(folder: Path) -> Path:
    """Make a folder under a random temporary name, as `open_partial`.

    Raises:
        OSError: the folder that it is in cannot be written.
    """
    path = _partial_path(folder)
    path.mkdir()
    return path


def is_partial(name: str) -> bool:
    """Return whether a name is one that `open_partial` makes, which a killed process leaves."""
    return re.fullmatch(r"\.[0-9a-f]{16}\.partial", name) is not None


def _partial_path(folder: Path) -> Path:
    return folder / f".{secrets.token_hex(8)}.partial"


def open_unfinished(path: Path) -> BinaryIO:
    """Open or make a file to read and write that a later process can continue.

    Its name is predictable, so links that somebody else put there are refused.

    Raises:
        StorageError: the file is a symbolic link, has further hard links, or is no regular file.
        OSError: the file cannot be opened.
    """
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise StorageError(f"{path}: expected a plain file of its own; remove what is there")
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK | _BINARY, 0o666), "r+b")


def atomic_write(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file atomically: after a power cut too, it has its old content or all of the new.

    Args:
        path: the file; a link is replaced, not followed.
        content: its whole content.
        mode: its permissions; None for the process's default.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with atomic_file(path, mode=mode) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a file to write that gets its name at the end of the context, as `atomic_write`.

    It is removed if the context raises an error.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    partial = None
    try:
        partial, handle = open_partial(path.parent)
        with os.fdopen(handle, "w+b") as file:
            if mode is not None:
                os.chmod(partial, mode)  # noqa: PTH101  # before it has content to protect
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        fsync_dir(path.parent)
    except BaseException as error:  # a signal too
        if partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise


@contextmanager
def lock(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold a lock on a file, which the system releases when the process ends, however it ends.

    Args:
        path: the file, which is made, and removed in the end.
        busy: the message to fail with if another process holds the lock; None to wait for it.

    Raises:
        StorageError: another process holds the lock, or the file cannot be made or locked.
    """
    handle = open_locked(path, busy)
    try:
        yield
    finally:
        if sys.platform != "win32":  # Windows cannot remove an open file
            path.unlink(missing_ok=True)
        os.close(handle)
        if sys.platform == "win32":
            with suppress(OSError):
                path.unlink(missing_ok=True)


def open_locked(path: Path, busy: str | None) -> int:
    """Open a file, which is made where there is none, and lock it until it is closed; as `lock`.

    Returns:
        its descriptor, to read and write.
    """
    while True:
        # Open
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK | _BINARY, 0o666)
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be made ({error.strerror or error}); choose another folder"
            ) from error

        # Lock; that counts only if the file was neither removed nor made anew since it was opened
        try:
            _lock(handle, busy is None)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), os.fstat(handle)):
                    return handle
        except (BlockingIOError, PermissionError) as error:
            os.close(handle)
            if busy is not None:
                raise StorageError(busy) from error
            time.sleep(0.1)  # Windows gives up by itself after ten seconds
            continue
        except OSError as error:
            os.close(handle)
            raise StorageError(
                f"{path}: cannot be locked ({error.strerror or error}); choose another folder"
            ) from error
        except BaseException:
            os.close(handle)
            raise

        # Try again with the new file
        os.close(handle)
        if busy is not None:
            raise StorageError(busy)


def _lock(handle: int, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def fsync_dir(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can do that."""
    with suppress(OSError):  # Windows cannot open folders, some network file systems not flush them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def user_folder(kind: Literal["cache", "data", "state"]) -> Path:
    """Return the folder that the system has for what programs keep for a user; it may not exist.

    Raises:
        StorageError: there is none, because the user has no home or a relative one.
    """
    import platformdirs

    try:
        folder: Path = getattr(platformdirs, f"user_{kind}_path")("voxtral-onnx")
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error)
    else:
        if folder.is_absolute():
            return folder
        reason = f"{folder} is relative"
    raise StorageError(f"no folder for the user's {kind} ({reason}); set HOME")


def disk_of(folder: Path) -> tuple[Path, int]:
    """Return a folder or its nearest existing parent, and the free bytes of the disk there."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return place, shutil.disk_usage(place).free


def require_disk(needs: Mapping[Path, int]) -> None:
    """Check that disks have room for the bytes that are to be written below some folders.

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
