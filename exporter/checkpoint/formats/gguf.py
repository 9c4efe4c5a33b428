"""Open GGUF files, whole or cut into byte shards, as lazy tensors: the format alone.

    "GGUF", version, number of tensors, number of keys
    keys and values
    name, shape, type, offset of each tensor
    data

The `gguf` package's reader maps one whole file, so it can neither read shards nor report what is
wrong with a damaged header; its arithmetic for the block types is what `Tensor.rows` uses here.
Whose file it is and what its metadata says is found out in gguf_model.py. Source: ggml's
`docs/gguf.md`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....errors import CheckpointError
from ....escaping import quoted
from ....limits import GGUF_HEADER
from ....quant.gguf import BLOCK_SIZE
from ....quant.gguf import TYPES as KEPT_TYPES
from ....quant.kept import StoredBlocks
from ..tensors import BF16, F16, F32, Encoding, Span, Tensor, map_file
from .shards import MAGIC, shard_after

_VERSIONS = (2, 3)
_ALIGNMENT_KEY, _ALIGNMENT = "general.alignment", 32  # bytes, where the key is absent
_MAX_TEXT = 1 << 20  # bytes of one string; a longer one means a damaged file
_MOST_ENTRIES = 1 << 14  # tensors, and keys; more mean a damaged file
_TAIL = 1 << 16  # bytes; no weights end in so many zeros, but a file that was reserved first does
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_UINT32, _TEXT, _ARRAY = 4, 8, 9
_LISTED = "audiocpp."  # lists under keys that begin so are read; a vocabulary is skipped

Value = str | int | float | list[str] | np.ndarray  # of a key in the metadata


_KEPT = {name: StoredBlocks(bits, BLOCK_SIZE) for bits, name in KEPT_TYPES.items()}


def _blocks(name: str, block_size: int, block_bytes: int) -> Encoding:
    def decode(stored: np.ndarray) -> np.ndarray:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        return dequantize(stored, GGMLQuantizationType[name])

    return Encoding(name, block_size, block_bytes, decode, _KEPT.get(name))


TYPES = {  # by number in ggml's enum ggml_type
    0: F32,
    1: F16,
    2: _blocks("Q4_0", 32, 18),
    3: _blocks("Q4_1", 32, 20),
    6: _blocks("Q5_0", 32, 22),
    7: _blocks("Q5_1", 32, 24),
    8: _blocks("Q8_0", 32, 34),
    10: _blocks("Q2_K", 256, 84),
    11: _blocks("Q3_K", 256, 110),
    12: _blocks("Q4_K", 256, 144),
    13: _blocks("Q5_K", 256, 176),
    14: _blocks("Q6_K", 256, 210),
    30: BF16,
}
_REFUSED = {  # the rest of that enum, with what ggml has removed from it
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}


def open_gguf(files: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Value]]:
    """Open a GGUF: return its tensors by name in the file's order, and its metadata.

    Of the metadata's lists only those of audio.cpp are returned.

    Args:
        files: the whole file, or all of its shards in order.

    Raises:
        CheckpointError: the file is damaged, truncated, of another version, or has a type that is
            not supported.
        StorageError: this process may not map that much memory.
    """
    # Check the first bytes
    if empty := [path for path in files if not path.stat().st_size]:
        raise CheckpointError(
            f"{empty[0]}: expected a part of a GGUF, the file has 0 bytes; download it again"
        )
    whole = Span(tuple(map_file(path) for path in files))
    header = _Header(str(files[0]), whole)
    header.take(len(MAGIC))
    if (version := header.number("I")) not in _VERSIONS:
        raise CheckpointError(
            f"{files[0]}: expected GGUF version 2 or 3, got {version}; convert it anew"
        )

    # Read the keys and values
    num_tensors, num_keys = header.count(), header.count()
    metadata = {}
    for _ in range(num_keys):
        key = header.text()
        if key in metadata:
            raise CheckpointError(f"{files[0]}: the key {key} appears twice; convert it anew")
        kind = header.number("I")
        if key == _ALIGNMENT_KEY and kind != _UINT32:
            raise CheckpointError(
                f"{files[0]}: {key}: expected an unsigned number of 32 bits, got kind {kind}; "
                "convert it anew"
            )
        metadata[key] = header.value(kind, keeps_lists=key.startswith(_LISTED))
    if metadata.get("split.count", 1) != 1:
        raise CheckpointError(
            f"{files[0]}: one of {metadata['split.count']} GGUFs that hold a model together; merge "
            "them first: llama-gguf-split --merge FIRST OUT"
        )

    # Read the names, shapes, types and offsets of the tensors
    entries = [_read_entry(header) for _ in range(num_tensors)]
    alignment = metadata.get(_ALIGNMENT_KEY, _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(
            f"{files[0]}: {_ALIGNMENT_KEY}: expected a power of two, got {quoted(alignment)}"
        )
    begin = base = _aligned(header.at, alignment)

    # Find their bytes, which follow each other in the header's order, as ggml requires
    tensors, end = {}, base
    for name, shape, encoding, offset in entries:
        if name in tensors:
            raise CheckpointError(f"{files[0]}: {name} appears twice; convert it anew")
        if base + offset != begin:
            raise CheckpointError(
                f"{files[0]}: {name}: expected its values from byte {begin - base:,} of the data "
                f"on, got {offset:,}; convert it anew"
            )
        end = begin + encoding.num_bytes(shape)
        if end > whole.size:
            raise CheckpointError(_too_short(files, f"{name} ends at byte {end:,}", whole.size))
        tensors[name] = Tensor(name, shape, encoding, whole.part(begin, end))
        begin = _aligned(end, alignment)
    if len(files) > 1 and end <= whole.size - whole.pieces[-1].size:
        raise CheckpointError(
            f"{files[-1]}: not a shard of {files[0]}, which ends at byte {end:,} before it"
        )
    tail = whole.read(max(base, end - _TAIL), end)
    if len(tail) == _TAIL and not tail.any():
        raise CheckpointError(
            f"{files[-1]}: its last {_TAIL:,} bytes are zeros: a download that has not come to its "
            "end; download it again"
        )
    return tensors, {key: value for key, value in metadata.items() if value is not None}


def _read_entry(header: _Header) -> tuple[str, tuple[int, ...], Encoding, int]:
    name = header.text()
    num_axes = header.number("I")
    if not 1 <= num_axes <= 4:
        raise CheckpointError(
            f"{header.name}: {name}: expected 1 to 4 axes, got {num_axes}; download it again"
        )
    shape = tuple(header.number("Q") for _ in range(num_axes))[::-1]
    if 0 in shape:
        raise CheckpointError(f"{header.name}: {name} {list(shape)}: empty; convert it anew")
    number, offset = header.number("I"), header.number("Q")
    if number not in TYPES:
        known = ", ".join(encoding.name for encoding in TYPES.values())
        raise CheckpointError(
            f"{header.name}: {name}: expected one of the types {known}, got "
            f"{_REFUSED.get(number, f'type {number}, which is not known')}; take a GGUF in one of "
            "them (the blocks of Q4_0 and Q8_0 are kept bit by bit) or the original checkpoint"
        )
    encoding = TYPES[number]
    if shape[-1] % encoding.block_size or (len(shape) == 1 and encoding.block_size > 1):
        raise CheckpointError(
            f"{header.name}: {name} {list(shape)}: expected rows in whole blocks of "
            f"{encoding.name} ({encoding.block_size} values each), and vectors as floats"
        )
    return name, shape, encoding, offset


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def _too_short(files: Sequence[Path], what: str, size: int) -> str:
    if following := shard_after(files):
        missing = f"{following} is missing, or {files[-1].name} is cut; get it"
        return f"{files[0]}: {what}, its {len(files)} shards have {size:,}: {missing}"
    return f"{files[0]}: truncated: {what}, the file has {size:,}; download it again"


class _Header:
    """A cursor that reads a GGUF's header field by field."""

    def __init__(self, name: str, whole: Span):
        self.name, self.whole, self.at = name, whole, 0
        self.content = whole.read(0, min(whole.size, GGUF_HEADER)).tobytes()

    def take(self, size: int) -> bytes:
        start = self.at
        self.skip(size)
        return self.content[start : self.at]

    def skip(self, size: int) -> None:
        """Skip some bytes."""
        if size > len(self.content) - self.at:
            raise self._ends()
        self.at += size

    def number(self, form: str):
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def count(self) -> int:
        """Read the number of tensors or keys."""
        if (count := self.number("Q")) > _MOST_ENTRIES:
            raise CheckpointError(
                f"{self.name}: {count:,} tensors or keys in its header: damaged; download it again"
            )
        return count

    def text(self, most: int = _MAX_TEXT) -> str:
        size = self.number("Q")
        if size > most:
            raise CheckpointError(
                f"{self.name}: a name of {size:,} bytes in its header: damaged; download it again"
            )
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.name}: damaged header ({error}); download it again"
            ) from error

    def value(self, kind: int, *, keeps_lists: bool) -> Value | None:
        """Read a scalar, a string or a list; return None for a list that is only skipped."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                dtype, start = np.dtype(f"<{_SCALARS[inner]}"), self.at
                self.skip(count * dtype.itemsize)
                return np.frombuffer(self.content, dtype, count, start) if keeps_lists else None
            if inner == _TEXT:
                return self.texts(count) if keeps_lists else self.skip_texts(count)
            kind = inner
        raise CheckpointError(
            f"{self.name}: unknown kind of metadata {kind}: damaged; download it again"
        )

    def texts(self, count: int) -> list[str]:
        """Read a list of strings, of which one may be a whole file."""
        if count > _MOST_ENTRIES:
            raise CheckpointError(
                f"{self.name}: a list of {count:,} names in its header: damaged; download it again"
            )
        return [self.text(len(self.content)) for _ in range(count)]

    def skip_texts(self, count: int) -> None:
        """Skip a list of strings, fast, as a vocabulary has hundreds of thousands."""
        at, read = self.at, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                at += 8 + read(self.content, at)[0]
        except (struct.error, OverflowError):  # an offset beyond the header
            raise self._ends() from None
        self.skip(at - self.at)

    def _ends(self) -> CheckpointError:
        if len(self.content) == GGUF_HEADER:
            reason = f"at most {GGUF_HEADER:,} bytes, found more: damaged"
            return CheckpointError(f"{self.name}: expected a header of {reason}; download it again")
        return CheckpointError(
            f"{self.name}: truncated or damaged: its header ends beyond the {self.whole.size:,} "
            "bytes that there are; download it again"
        )
