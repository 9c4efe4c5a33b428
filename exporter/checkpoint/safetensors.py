"""Safetensors files, and the shards that Hugging Face's layout has, as lazy tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from msgspec import Struct

from ...decode import RelativeName, decode, read_within
from ...errors import CheckpointError
from ...limits import INDEX
from .tensors import BF16, F16, F32, Span, Tensor, map_file

_ENCODINGS = {encoding.name: encoding for encoding in (BF16, F16, F32)}
_MAX_HEADER = 100 << 20  # bytes, the bound that the safetensors format sets
_INDEX = "model.safetensors.index.json"


def shard_names(folder: Path) -> list[str]:
    """The weight files of a checkpoint in Hugging Face's layout: those of the index, or the one.

    Raises:
        CheckpointError: the index is damaged.
    """
    return sorted(set(_read_weight_map(folder).values())) or ["model.safetensors"]


def _read_weight_map(folder: Path) -> dict[str, str]:
    """Tensors and their files; empty where there is no index."""
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
    """Map the weight files of a checkpoint in Hugging Face's layout; tensors by stored name.

    Raises:
        CheckpointError: a file is missing or damaged, or lacks a tensor that the index names.
    """
    tensors: dict[str, Tensor] = {}
    for shard in shard_names(folder):
        tensors |= open_safetensors(folder / shard)
    if lost := sorted(_read_weight_map(folder).keys() - tensors.keys()):
        raise CheckpointError(
            f"{folder / _INDEX}: names {len(lost)} tensors that its shards do "
            f"not hold, as {lost[0]}"
        )
    return tensors


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file.

    Source: the format's README; offsets count from the end of the header.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 8:
                raise CheckpointError(
                    f"{path}: expected a safetensors header, the file has {size} bytes; download "
                    "it again"
                )
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > min(_MAX_HEADER, size - 8):
                raise CheckpointError(
                    f"{path}: expected a safetensors file, its header would be {header_size:,} "
                    f"bytes of {size:,}; download it again"
                )
            header = json.loads(file.read(header_size))
            if not isinstance(header, dict):
                raise ValueError(f"its header is a {type(header).__name__}")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); download it again"
        ) from error
    whole = Span((map_file(path),))

    header.pop("__metadata__", None)
    tensors, base = {}, 8 + header_size
    for name, entry in header.items():
        try:
            encoding = _ENCODINGS.get(entry["dtype"])
            shape = tuple(entry["shape"])
            (begin, end) = entry["data_offsets"]
            if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
                raise ValueError("sizes and offsets are whole numbers")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: malformed entry for {name}; download it again"
            ) from error
        if encoding is None:
            raise CheckpointError(
                f"{path}: {name}: expected BF16, F16 or F32, got {entry['dtype']}"
            )
        if end - begin != encoding.num_bytes(shape):
            raise CheckpointError(
                f"{path}: {name}: {list(shape)} {entry['dtype']} does not fit {end - begin:,} bytes"
            )
        if base + end > size:
            raise CheckpointError(
                f"{path}: truncated: {name} ends at byte {base + end:,}, the file has {size:,}; "
                "download it again"
            )
        tensors[name] = Tensor(name, shape, encoding, whole.part(base + begin, base + end))
    return tensors


def read_object(path: Path, limit: int) -> dict[str, object]:
    """Read a JSON object of a checkpoint, of at most `limit` bytes.

    Raises:
        CheckpointError: it cannot be read, is larger, or is no JSON object.
    """
    return decode(
        dict[str, object],
        read_bytes(path, limit),
        lambda reason: CheckpointError(f"{path}: not valid JSON ({reason})"),
    )


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a small file of a checkpoint, of at most `limit` bytes.

    Raises:
        CheckpointError: it cannot be read, or is larger.
    """
    try:
        return read_within(path, limit, lambda reason: CheckpointError(f"{path}: {reason}"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
