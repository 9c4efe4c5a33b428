"""A range of a file as a file of its own."""

from __future__ import annotations

import os
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

PIECE_BYTES = 1 << 20  # searched at a time


class View(RawIOBase):
    """A range of a file as a file of its own, with other bytes where its header is wrong."""

    def __init__(
        self, file: BinaryIO, start: int, end: int, patches: dict[int, bytes] | None = None
    ):
        """Take the bytes from `start` to `end`; patches replace those at offsets from `start`."""
        self.size, self.reached = end - start, 0  # bytes; reached: the end of what was read
        self._file, self._start, self._at = file, start, 0
        self._patches = patches or {}

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the place of the next read, and return it; -1 for one before the beginning."""
        # Not an error, as libraries call this from C and would print its traceback
        at = offset + (0, self._at, self.size)[whence]
        if not 0 <= at < 1 << 62:
            return -1
        self._at = at
        return at

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def readinto(self, buffer) -> int:
        """Read what fits into a buffer, and return the number of bytes."""
        target = memoryview(buffer).cast("B")[: max(0, self.size - self._at)]
        if not target:
            return 0
        self._file.seek(self._start + self._at)
        count = self._file.readinto(target) or 0  # type: ignore[attr-defined]
        for at, patch in self._patches.items():
            for number in range(len(patch)):
                if 0 <= at + number - self._at < count:
                    target[at + number - self._at] = patch[number]
        self._at += count
        self.reached = max(self.reached, self._at)
        return count

    def descriptor(self) -> int | None:
        """Open the same bytes for a library that reads without Python, and return the descriptor.

        None where no file has these bytes alone, or none that can be opened again; the caller
        closes it.
        """
        path = getattr(self._file, "name", None)  # an int, if it was opened without one
        if os.name != "posix" or self._start or self._patches or not isinstance(path, str | Path):
            return None
        try:
            found = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        state = os.fstat(found)
        if os.path.samestat(state, os.fstat(self._file.fileno())) and state.st_size == self.size:
            return found
        os.close(found)  # another file has taken its place
        return None

    def rest(self, at: int) -> View:
        """Return the bytes from an offset on as a file of its own."""
        return View(self._file, self._start + at, self._start + self.size)

    def peek(self, at: int, size: int) -> bytes:
        """Return up to `size` bytes at an offset, without moving; none if it is out of range."""
        if not 0 <= at < self.size:
            return b""
        before, reached = self._at, self.reached
        self._at, data = at, b""
        while len(data) < size and (piece := self.read(size - len(data))):
            data += piece
        self._at, self.reached = before, reached
        return data
