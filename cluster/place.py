"""Read and write files of a local folder or a bucket, each file whole or not at all."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import fs

from ..errors import StorageError, UsageError
from ..files import atomic_file, is_partial

PIECE_BYTES = 16 << 20  # sent at a time
DELAYED = "allow_delayed_open"  # of pyarrow: a small file in a bucket is one request, not three
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")


def is_address(name: str) -> bool:
    """Return whether a name is that of a bucket, such as s3://bucket/folder, and not of a file."""
    return _ADDRESS.match(name) is not None


def open_system(name: str) -> tuple[fs.FileSystem, str]:
    """Return the file system that holds a path or an address, and the path in it.

    Raises:
        UsageError: no such file system is known.
        StorageError: it cannot be reached.
    """
    if not is_address(name):
        return fs.LocalFileSystem(), str(Path(name).absolute())
    whole = name
    if name.startswith("s3://") and DELAYED not in name:
        whole += ("&" if "?" in name else "?") + f"{DELAYED}=true"
    try:
        return fs.FileSystem.from_uri(whole)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"{name}: expected an address such as s3://bucket/folder ({error})") from (
            error
        )
    except OSError as error:
        raise StorageError(f"{name}: cannot be reached ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Return what an error of a file system says, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


class Place:
    """A folder, here or in a bucket, which is made when its first file is written."""

    def __init__(self, name: str):
        """Take the path of a folder, or an address such as s3://bucket/folder.

        Raises:
            UsageError: the address is none.
        """
        self.name = name if is_address(name) else str(Path(name).absolute())
        self.system, self._base = open_system(name)
        self.is_local = isinstance(self.system, fs.LocalFileSystem)
        self._made = set[str]()  # local folders

    def __reduce__(self) -> tuple[type[Place], tuple[str]]:
        return Place, (self.name,)

    def at(self, name: str) -> str:
        """Return a file's path or address, for people."""
        return f"{self.name.partition('?')[0].rstrip('/')}/{name}"

    def file(self, name: str) -> str:
        """Return a file's path in `system`."""
        return f"{self._base.rstrip('/')}/{name}"

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name.

        Raises:
            StorageError: the place cannot be read.
        """
        with self._told(name, "read"):
            return self.system.get_file_info(self.file(name)).type == fs.FileType.File

    def modified(self, name: str) -> float:
        """Return when a file was written, in seconds, by the clock of what holds it.

        Raises:
            StorageError: it is not there, or the place cannot be read.
        """
        with self._told(name, "read"):
            written = self.system.get_file_info(self.file(name)).mtime
        if written is None:
            raise StorageError(f"{self.at(name)}: is not there any more; run the same again")
        return written.timestamp()

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder; none if there is no such folder.

        Raises:
            StorageError: the place cannot be read.
        """
        selector = fs.FileSelector(self.file(folder), allow_not_found=True)
        with self._told(folder, "read"):
            found = self.system.get_file_info(selector)
        return {each.base_name for each in found if not is_partial(each.base_name)}

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            StorageError: it cannot be read.
        """
        with self._told(name, "read"), self.system.open_input_stream(self.file(name)) as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            StorageError: the disk is full, or the place cannot be written.
        """
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a file to write, which gets its name at the end of the context.

        Raises:
            StorageError: the disk is full, or the place cannot be written.
        """
        if self.is_local:
            path = Path(self.file(name))
            if str(path.parent) not in self._made:
                with self._told(name, "written"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                self._made.add(str(path.parent))
            with atomic_file(path) as file:
                yield file
            return
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with self._told(name, "written"):
                self._send(file, self.file(name))

    def clear(self, folder: str) -> None:
        """Remove what a folder holds, if there is one.

        Raises:
            StorageError: it cannot be removed.
        """
        with self._told(folder, "removed"):
            self.system.delete_dir_contents(self.file(folder), missing_dir_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one.

        Raises:
            StorageError: it cannot be removed.
        """
        if self.has(name):
            with self._told(name, "removed"), suppress(FileNotFoundError):
                self.system.delete_file(self.file(name))

    def _send(self, file: BinaryIO, path: str) -> None:
        """Send a file to a bucket; the stream is closed, which makes the object, even if it fails.

        So what a failure leaves is removed.
        """
        stream = self.system.open_output_stream(path)
        try:
            while piece := file.read(PIECE_BYTES):
                stream.write(piece)
            stream.close()
        except BaseException:
            with suppress(OSError, ValueError, pa.ArrowException):
                stream.close()
            with suppress(OSError, pa.ArrowException):
                self.system.delete_file(path)
            raise

    @contextmanager
    def _told(self, name: str, what: str) -> Iterator[None]:
        """Turn errors of the file system into a StorageError."""
        try:
            yield
        except StorageError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self.at(name)}: cannot be {what} ({reason(error)})") from error


@contextmanager
def local_copy(name: str, on_piece: Callable[[], None]) -> Iterator[Path]:
    """Yield the path of a recording, which is copied here first if it lies in a bucket.

    Args:
        name: its path or address.
        on_piece: called when another piece of it has come.

    Raises:
        OSError: it cannot be read, or its copy not written.
    """
    if not is_address(name):
        yield Path(name)
        return
    system, path = open_system(name)
    with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as copy:
        with system.open_input_stream(path) as source:
            while piece := source.read(PIECE_BYTES):
                copy.write(piece)
                on_piece()
        copy.flush()
        yield Path(copy.name)
