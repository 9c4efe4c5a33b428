"""Open safetensors files, alone or as the shards of Hugging Face's layout, as lazy tensors."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np
from msgspec import Struct
from safetensors import SafetensorError, safe_open

from ....decode import RelativeName, decode, read_within
from ....errors import CheckpointError
from ....limits import HEADER, INDEX
from ..tensors import BF16, F16, F32, Encoding, Span, Tensor, map_file, no_room

FLOATS = (BF16, F16, F32)
# Codes and shapes of quantised formats, which only their own readers give a meaning
_INTEGERS = {"I8": np.int8, "U8": np.uint8, "I32": "<i4", "U32": "<u4", "I64": "<i8"}


def _integers(name: str, kind: str | type) -> Encoding:
    size = np.dtype(kind).itemsize
    return Encoding(name, 1, size, lambda stored: stored.view(kind).astype(np.float32))


def _e4m3(code: int) -> float:
    """Return the number that a byte encodes: 1 bit of sign, 4 of exponent, 3 of fraction."""
    exponent, fraction = code >> 3 & 15, code & 7
    size = math.ldexp(8 + fraction, exponent - 10) if exponent else math.ldexp(fraction, -9)
    return math.nan if code & 127 == 127 else -size if code & 128 else size


_E4M3 = np.array([_e4m3(code) for code in range(256)], np.float32)
F8_E4M3 = Encoding("F8_E4M3", 1, 1, lambda stored: _E4M3[stored])
F8_E5M2 = Encoding(  # the upper byte of a float16
    "F8_E5M2",
    1,
    1,
    lambda stored: np.left_shift(stored, 8, dtype=np.uint16).view(np.float16).astype(np.float32),
)
_ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        *FLOATS,
        F8_E4M3,
        F8_E5M2,
        *(_integers(name, kind) for name, kind in _INTEGERS.items()),
    )
}
_INDEX = "model.safetensors.index.json"
_WHOLE = ("model.safetensors", "weights.safetensors")  # the second is MLX's
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def shard_names(folder: Path, held: Collection[str] | None = None) -> list[str]:
    """Return the names of the weight files of a `config.json`: the index's, or the only one.

    Args:
        folder: has the index, if there is one.
        held: names of the files beside it, by default those in the folder.

    Raises:
        CheckpointError: the index is damaged, is missing beside shards, or there are two models.
    """
    held = [path.name for path in folder.glob("*")] if held is None else held
    shards = sorted(set(_read_weight_map(folder).values()))
    whole = [name for name in _WHOLE if name in held]
    if others := sorted({*whole} - {*shards}) if shards else whole[1:]:
        raise CheckpointError(
            f"{folder}: two models: {others[0]}, and {_INDEX if shards else whole[0]}; move the "
            "one that you do not mean to another folder"
        )
    if not shards and not whole and (found := sorted(filter(_SHARD.fullmatch, held))):
        raise CheckpointError(
            f"{folder / _INDEX}: missing, but there is {found[0]}; download the index, which says "
            "what each shard has"
        )
    return shards or whole or [_WHOLE[0]]


def _read_weight_map(folder: Path) -> dict[str, str]:
    """Read the file of each tensor from the index; return an empty dict where there is none."""
    index = folder / _INDEX
    if not index.exists():
        return {}
    found = decode(
        _Index,
        read_bytes(index, INDEX),
        lambda reason: CheckpointError(
            f"{index}: expected an object 'weight_map' from tensors to files ({reason}); download "
            "it again"
        ),
    )
    return found.weight_map


class _Index(Struct):
    weight_map: dict[str, RelativeName]


def open_hf_files(folder: Path) -> dict[str, Tensor]:
    """Map the weight files in Hugging Face's layout and return their tensors by stored name.

    Raises:
        CheckpointError: a file is missing or damaged, or lacks a tensor that the index names.
    """
    tensors: dict[str, Tensor] = {}
    for shard in shard_names(folder):
        found = open_safetensors(folder / shard)
        if twice := sorted(found.keys() & tensors.keys()):
            raise CheckpointError(
                f"{folder / shard}: {twice[0]}: is in another shard too; download the checkpoint "
                "again"
            )
        tensors |= found
    if lost := sorted(_read_weight_map(folder).keys() - tensors.keys()):
        raise CheckpointError(
            f"{folder / _INDEX}: names {len(lost)} tensors that its shards lack, such as "
            f"{lost[0]}; download the checkpoint again"
        )
    return tensors


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file and return its tensors; the format's own library checks the header.

    Raises:
        CheckpointError: the file is missing, damaged, or has a type that is not supported.
        StorageError: this process may not map that much memory.
    """
    begin, entries = _read_header(path)
    whole, tensors = Span((map_file(path),)), {}
    for name, dtype, shape in entries:
        encoding = _ENCODINGS.get(dtype)
        if encoding is None:
            raise CheckpointError(f"{path}: {name}: {expected_floats(dtype)}")
        end = begin + encoding.num_bytes(shape)
        tensors[name] = Tensor(name, shape, encoding, whole.part(begin, end))
        begin = end
    if begin != whole.size:
        raise CheckpointError(f"{path}: changed while it was read; try again")
    return tensors


def expected_floats(found: str) -> str:
    """Return the reason for which a tensor is refused that has a type other than floats."""
    return f"expected BF16, F16 or F32, got {found}"


def _read_header(path: Path) -> tuple[int, list[tuple[str, str, tuple[int, ...]]]]:
    """Read the offset of the data, and name, type and shape of the tensors in the data's order.

    The tensors of a valid file follow each other without gaps.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if size > HEADER:
            raise CheckpointError(
                f"{path}: expected a safetensors file, its header would have {size:,} bytes, more "
                f"than {HEADER:,}; download it again"
            )
        with safe_open(path, "np") as file:
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            entries = [(name, part.get_dtype(), tuple(part.get_shape())) for name, part in slices]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except MemoryError as error:
        raise no_room(path) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); download it again"
        ) from error
    return 8 + size, entries


def read_object(path: Path, limit: int) -> dict[str, object]:
    """Read a JSON object of a checkpoint, of at most `limit` bytes.

    Raises:
        CheckpointError: the file cannot be read, is larger, or is no JSON object.
    """
    return decode(
        dict[str, object],
        read_bytes(path, limit),
        lambda reason: CheckpointError(f"{path}: not valid JSON ({reason})"),
    )


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a small file of a checkpoint, of at most `limit` bytes.

    Raises:
        CheckpointError: the file cannot be read, or is larger.
    """
    try:
        return read_within(path, limit, lambda reason: CheckpointError(f"{path}: {reason}"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
