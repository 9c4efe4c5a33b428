"""Matrices whose codes and scales are tensors of their own, read dequantised row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ....errors import QuantizationError
from ....quant.blocks import Blocks
from ....quant.kept import StoredBlocks
from ..tensors import Encoding, Tensor

LARGEST_SCALE = np.finfo(np.float16).max


def unpack_words(stored: np.ndarray, bits: int) -> np.ndarray:
    """Unpack integers from 0 up: uint8 [..., bytes] -> uint8 [..., bytes * 8 / bits].

    Both compressed-tensors and MLX pack them into little-endian words of 32 bits, from the lowest
    bit on. Integers of 3, 5 or 6 bits go over the borders of bytes.
    """
    stored = np.ascontiguousarray(stored)
    shape = *stored.shape[:-1], stored.shape[-1] * 8 // bits
    if 32 % bits == 0:
        words, size = stored.view("<u4"), 32
    else:  # the fewest whole bytes that have whole integers: 3 bytes, or 5
        size, kind = (40, np.uint64) if bits == 5 else (24, np.uint32)
        each = stored.reshape(*stored.shape[:-1], -1, size // 8)
        words = np.zeros(each.shape[:-1], kind)
        for at in range(size // 8):
            words |= np.left_shift(each[..., at], 8 * at, dtype=kind)
    codes = words[..., None] >> np.arange(0, size, bits, words.dtype)
    codes &= words.dtype.type((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(shape)


def integers(bits: int, zero: int = 0) -> Encoding:
    """Return the encoding of integers as `unpack_words` has them, less `zero`."""

    def decode(stored: np.ndarray) -> np.ndarray:
        values = unpack_words(stored, bits).astype(np.float32)
        values -= np.float32(zero)
        return values

    size = 8 if 32 % bits else 32 // bits
    return Encoding(f"U{bits}", size, size * bits // 8, decode)


def groups(name: str, size: int, bits: int, kept: StoredBlocks | None = None) -> Encoding:
    """Return the encoding of a `Scaled` matrix in groups of some values, of some bits each."""

    def decode(stored: np.ndarray) -> np.ndarray:
        raise AssertionError("a matrix in groups is decoded by its parts")

    return Encoding(name, size, size * bits // 8, decode, kept)


@dataclass(frozen=True, slots=True)
class Scaled(Tensor):
    """A matrix [N, K] in groups along its rows, each with a scale and perhaps a bias.

    A value is scale * code + bias. Codes are decoded to the numbers that scales multiply: signed
    integers, 8-bit floats.
    """

    codes: Tensor = field(kw_only=True)  # [N, K]
    scales: Tensor = field(kw_only=True)  # [N, groups], or [1, 1] for the whole matrix
    biases: Tensor | None = field(default=None, kw_only=True)  # [N, groups]

    @classmethod
    def of(
        cls, name: str, encoding: Encoding, codes: Tensor, scales: Tensor, biases: Tensor | None
    ) -> Scaled:
        """Return the matrix that these parts make up; the encoding's blocks are its groups."""
        return cls(
            name, codes.shape, encoding, codes.span, codes=codes, scales=scales, biases=biases
        )

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes of all parts as stored."""
        return sum(part.span.size for part in self._parts)

    @property
    def _parts(self) -> list[Tensor]:
        return [part for part in (self.codes, self.scales, self.biases) if part is not None]

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a float32 copy of the rows [start, stop), dequantised."""
        values = self.codes.rows(start, stop)
        groups = values.reshape(len(values), self._num_groups, self._group_size)
        groups *= self._rows_of(self.scales, start, stop)[..., None]
        if self.biases is not None:
            groups += self._rows_of(self.biases, start, stop)[..., None]
        return values

    def columns(
        self, start: int, stop: int, first_row: int = 0, end_row: int | None = None
    ) -> np.ndarray:
        """Return a float32 copy of some columns, dequantised and transposed: [columns, rows].

        They are the columns [start, stop) of the rows [first_row, end_row).
        """
        group = np.arange(start, stop) // self._group_size
        values = self.codes.columns(start, stop, first_row, end_row)
        values = values * self._rows_of(self.scales, first_row, end_row).T[group]
        if self.biases is not None:
            values += self._rows_of(self.biases, first_row, end_row).T[group]
        return values

    def stored_rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the rows [start, stop) of all parts as stored, one after the other.

        The scale of the whole matrix is part of every row.
        """
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        parts = [
            part.stored_rows(start, stop)
            if part.shape[0] == self.shape[0]
            else np.repeat(part.stored_rows(), stop - start, 0)
            for part in self._parts
        ]
        return np.concatenate(parts, -1)

    def arranged(self, name: str, order: np.ndarray | None) -> Scaled:
        """Return the matrix by another name, with the rows of all parts in another order."""

        def arrange(part: Tensor) -> Tensor:
            return part.arranged(name, order if part.shape[0] == self.shape[0] else None)

        biases = None if self.biases is None else arrange(self.biases)
        codes, scales = arrange(self.codes), arrange(self.scales)
        return replace(self, name=name, codes=codes, scales=scales, biases=biases)

    def blocks(self, start: int, stop: int, first: int = 0, end: int | None = None) -> Blocks:
        """Return the blocks [first, end) of the rows [start, stop) as they are.

        The codes count from 0 and are packed from the lowest bits of each word on, which are
        MatMulNBits' codes and packing.

        Raises:
            CheckpointError: the file has shrunk since it was opened.
            QuantizationError: a scale is not finite or is beyond float16's range.
        """
        kept = self.encoding.kept
        assert kept is not None
        scales = self.scales.rows(start, stop)[:, first:end]
        if not (np.abs(scales) <= LARGEST_SCALE).all():  # not a number is not either
            raise QuantizationError(
                f"{self.name}: expected finite scales in float16's range, got "
                f"{scales[~(np.abs(scales) <= LARGEST_SCALE)][0]:g}; the checkpoint is damaged"
            )
        packed = self.codes.stored_rows(start, stop)
        packed = packed.reshape(len(packed), self._num_groups, kept.block_size * kept.bits // 8)
        return Blocks(packed[:, first:end], scales, None)

    def scales_and_codes(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the scales and codes of the rows [start, stop), unpacked from their words."""
        kept = self.encoding.kept
        assert kept is not None
        codes = unpack_words(self.codes.stored_rows(start, stop), kept.bits)
        shape = len(codes), self._num_groups, kept.block_size
        return self.scales.rows(start, stop), codes.reshape(shape)

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Let the operating system drop the pages of the rows [start, stop)."""
        for part in self._parts:
            part.release(start, stop)

    @property
    def _num_groups(self) -> int:
        return self.scales.shape[1]

    @property
    def _group_size(self) -> int:
        return self.shape[1] // self._num_groups

    def _rows_of(self, part: Tensor, start: int, stop: int | None) -> np.ndarray:
        """Return the rows [start, stop) of scales or biases, all if they are one for the matrix."""
        return part.rows(start, stop) if part.shape[0] == self.shape[0] else part.rows()


def notes_on(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return a sentence for each packing of a checkpoint's weights, for whoever exports them."""
    counts = Counter(
        (tensor.encoding.name, tensor.encoding.kept)
        for tensor in tensors.values()
        if isinstance(tensor, Scaled)
    )
    notes = []
    for (name, kept), count in counts.items():
        size = f" in blocks of {kept.block_size}" if kept else ""
        what = f"{count} of the {len(tensors)} tensors are {name}{size}"
        if kept is None:
            notes.append(
                f"{what}: read as floats, which a quantised precision rounds a second time; that "
                "loses more than quantising the checkpoint that it was made of"
            )
        else:
            notes.append(
                f"{what}: {kept.bits}-bit precisions keep them as they are, unless a "
                "recipe says otherwise; weights rounded by GPTQ were seen to write nothing where "
                "words were spoken, so check the artifact with: voxtral-onnx verify"
            )
    return tuple(notes)
