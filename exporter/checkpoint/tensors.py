"""Lazy tensors of memory-mapped files, whatever the format.

`Tensor.rows` makes float32 copies of some rows only, and `Tensor.release` drops the mapped pages
behind them, so resident memory does not grow with the checkpoint.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from ...errors import CheckpointError, StorageError
from ...quant import gguf
from ...quant.blocks import Blocks
from ...quant.kept import StoredBlocks

HUGE_PAGE = 2 << 20  # bytes that the system may map around a page that is read


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of values in a file: in blocks along a row, of some bytes each."""

    name: str  # the format's own word, such as BF16 or Q4_0
    block_size: int  # values in a block; 1 for plain numbers
    block_bytes: int
    decode: Callable[[np.ndarray], np.ndarray]  # uint8 [..., bytes] -> a float32 copy [..., values]
    kept: StoredBlocks | None = None  # the blocks, where an artifact can keep them

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of this shape."""
        return prod(shape) // self.block_size * self.block_bytes


def _widen_bf16(stored: np.ndarray) -> np.ndarray:  # a bfloat16 is the upper half of a float32
    return np.left_shift(stored.view(np.uint16), 16, dtype=np.uint32).view(np.float32)


BF16 = Encoding("BF16", 1, 2, _widen_bf16)
F16 = Encoding("F16", 1, 2, lambda stored: stored.view(np.float16).astype(np.float32))
F32 = Encoding("F32", 1, 4, lambda stored: stored.view(np.float32).copy())
U8 = Encoding("U8", 1, 1, lambda stored: stored.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of one mapped file."""

    mapping: mmap.mmap
    offset: int  # bytes from the start of the mapping
    size: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a view of the bytes [start, stop).

        Raises:
            CheckpointError: the file has shrunk since it was mapped.
        """
        # Reading a mapped page beyond the file's end kills the process, so every read checks the
        # size first. A file that shrinks between check and read still does.
        if self.mapping.size() < self.offset + self.size:
            raise CheckpointError("its file has shrunk while it was read; download it again")
        return np.frombuffer(self.mapping, np.uint8, stop - start, self.offset + start)

    def release(self, start: int, stop: int) -> None:
        """Let the operating system drop the pages of the bytes [start, stop)."""
        begin, end = max(0, self.offset + start - HUGE_PAGE), self.offset + stop + HUGE_PAGE
        begin, end = begin - begin % mmap.PAGESIZE, min(end, len(self.mapping))
        if hasattr(self.mapping, "madvise"):
            self.mapping.madvise(mmap.MADV_DONTNEED, begin, end - begin)


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous range of bytes, in one file or across the shards that a file was cut into."""

    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return sum(piece.size for piece in self.pieces)

    def part(self, start: int, stop: int) -> Span:
        """Return the span of the bytes [start, stop)."""
        return Span(
            tuple(
                Piece(piece.mapping, piece.offset + a, b - a)
                for piece, a, b in self._within(start, stop)
            )
        )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the bytes [start, stop) as uint8: a view if they are in one file, else a copy."""
        parts = [piece.read(a, b) for piece, a, b in self._within(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.uint8)])

    def release(self, start: int, stop: int) -> None:
        """Let the operating system drop the pages of the bytes [start, stop)."""
        for piece, a, b in self._within(start, stop):
            piece.release(a, b)

    def _within(self, start: int, stop: int) -> list[tuple[Piece, int, int]]:
        """Return each piece that has some of the bytes [start, stop), and their range in it."""
        found, begin = [], 0
        for piece in self.pieces:
            a, b = max(start - begin, 0), min(stop - begin, piece.size)
            if a < b:
                found.append((piece, a, b))
            begin += piece.size
        return found


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a mapped file, in our row order."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    span: Span
    order: np.ndarray | None = None  # stored row of each of our rows, None for the same order

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes as stored."""
        return self.span.size

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a float32 copy of the rows [start, stop) along the first axis.

        Raises:
            CheckpointError: the file has shrunk since it was opened.
        """
        return self.encoding.decode(self.stored_rows(start, stop)).reshape(-1, *self.shape[1:])

    def stored_rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the rows [start, stop) as stored, uint8 [stop - start, bytes of a row].

        The array may be a view of the mapped file.

        Raises:
            CheckpointError: the file has shrunk since it was opened.
        """
        return self._stored(start, stop, slice(None))

    def columns(
        self, start: int, stop: int, first_row: int = 0, end_row: int | None = None
    ) -> np.ndarray:
        """Return a float32 copy of a matrix's columns, transposed: [columns, rows].

        They are the columns [start, stop) of the rows [first_row, end_row).

        Raises:
            CheckpointError: the file has shrunk since it was opened.
        """
        size, block = self.encoding.block_size, self.encoding.block_bytes
        first, end = start // size, -(-stop // size)
        stored = self._stored(first_row, end_row, slice(first * block, end * block))
        return self.encoding.decode(stored)[:, start - first * size : stop - first * size].T

    def arranged(self, name: str, order: np.ndarray | None) -> Tensor:
        """Return the tensor by another name, with its rows in another order."""
        return replace(self, name=name, order=order)

    def blocks(self, start: int, stop: int, first: int = 0, end: int | None = None) -> Blocks:
        """Return the blocks [first, end) of the rows [start, stop) as they are, repacked.

        Only for a tensor whose `encoding.kept` is not None.

        Raises:
            CheckpointError: the file has shrunk since it was opened.
            QuantizationError: a scale is not finite.
        """
        assert self.encoding.kept is not None
        size = self.encoding.block_bytes
        part = slice(first * size, None if end is None else end * size)
        return gguf.repack(self._stored(start, stop, part), self.encoding.kept.bits, self.name)

    def scales_and_codes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what makes up the blocks of the rows [start, stop), as their format defines it.

        This proves what `blocks` made. Scales are float32 [rows, num_blocks], codes uint8
        [rows, num_blocks, block_size].
        """
        assert self.encoding.kept is not None
        return gguf.decode_blocks(self.stored_rows(start, stop), self.encoding.kept.bits)

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Let the operating system drop the pages of the rows [start, stop), in stored order."""
        size = self._row_bytes
        self.span.release(start * size, (self.shape[0] if stop is None else stop) * size)

    @property
    def _row_bytes(self) -> int:
        return self.num_bytes // self.shape[0]

    def _stored(self, start: int, stop: int | None, part: slice) -> np.ndarray:
        """Return some bytes of each of the rows [start, stop), as stored."""
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        if self.order is None:
            return self._read(start, stop)[:, part]
        wanted = self.order[start:stop]
        first, end = int(wanted.min()), int(wanted.max()) + 1
        return self._read(first, end)[:, part][wanted - first]

    def _read(self, start: int, stop: int) -> np.ndarray:
        size = self._row_bytes
        try:
            return self.span.read(start * size, stop * size).reshape(stop - start, size)
        except CheckpointError as error:
            raise CheckpointError(f"{self.name}: {error}") from None


def map_file(path: Path) -> Piece:
    """Map a whole file, which must not be empty.

    Raises:
        CheckpointError: the file cannot be read.
        StorageError: this process may not map that much memory.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise no_room(path) from error
        raise CheckpointError(f"{path}: cannot be read ({error}); download it again") from error
    return Piece(mapping, 0, len(mapping))


def no_room(path: Path) -> StorageError:
    """Return the error to raise for a file that is larger than this process may map."""
    return StorageError(
        f"{path}: cannot be mapped: the limit on this process's memory leaves no room for its "
        f"{path.stat().st_size / 1e6:,.0f} MB; raise it (ulimit -v unlimited)"
    )
