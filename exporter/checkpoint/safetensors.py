"""Open safetensors files, alone or as the shards of Hugging Face's layout, as lazy tensors."""

from __future__ import annotations

import struct
from pathlib import Path

from msgspec import Struct
from safetensors import SafetensorError, safe_open

from ...decode import RelativeName, decode, read_within
from ...errors import CheckpointError
from ...limits import HEADER, INDEX
from .tensors import BF16, F16, F32, Span, Tensor, map_file, no_room

_ENCODINGS = {encoding.name: encoding for encoding in (BF16, F16, F32)}
_INDEX = "model.safetensors.index.json"


def shard_names(folder: Path) -> list[str]:
    """Return the names of the weight files in Hugging Face's layout: the index's, or the only one.

    Raises:
        CheckpointError: the index is damaged.
    """
    return sorted(set(_read_weight_map(folder).values())) or ["model.safetensors"]


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
        tensors |= open_safetensors(folder / shard)
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
            raise CheckpointError(f"{path}: {name}: expected BF16, F16 or F32, got {dtype}")
        end = begin + encoding.num_bytes(shape)
        tensors[name] = Tensor(name, shape, encoding, whole.part(begin, end))
        begin = end
    if begin != whole.size:
        raise CheckpointError(f"{path}: changed while it was read; try again")
    return tensors


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
