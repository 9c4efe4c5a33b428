"""Checkpoint folders of either layout as lazy tensors under one set of names.

Files are memory-mapped; `Tensor.rows` copies only what is asked for and `Tensor.release` drops the pages behind, so
resident memory does not grow with the checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..config import VoxtralConfig
from ..errors import CheckpointError, StorageError
from . import weights

_DTYPES = {"BF16": np.dtype(np.uint16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
HUGE_PAGE = 2 << 20  # bytes; the system may map as many around the page that is read
_MAX_HEADER = 100 << 20  # bytes, the bound that the safetensors format sets
_INDEX = "model.safetensors.index.json"
_SUFFIXES = {".safetensors", ".json"}
_CARD_KEYS = {"scope", "trained_delays_ms"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a mapped file, in our row order."""

    name: str
    shape: tuple[int, ...]
    stored: np.ndarray  # as in the file; bf16 as uint16
    is_bf16: bool
    order: np.ndarray | None  # stored row of each of our rows, None for the same order
    mapping: mmap.mmap
    offset: int  # bytes from the start of the mapping

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 copy of the rows [start, stop) along the first axis.

        Raises:
            CheckpointError: the file has shrunk since it was opened.
        """
        self._require_whole()
        return self._widen(self.stored[start:stop] if self.order is None else self.stored[self.order[start:stop]])

    def columns(self, start: int, stop: int) -> np.ndarray:
        """float32 copy of the columns [start, stop) of a matrix, transposed: [stop - start, rows].

        Raises:
            CheckpointError: the file has shrunk since it was opened.
        """
        self._require_whole()
        part = self.stored[:, start:stop].T
        return self._widen(part if self.order is None else part[:, self.order])

    def _require_whole(self) -> None:
        # Reading a mapped page beyond the file's end kills the process, so its size is asked for before every read. A
        # file that shrinks between the question and the read still does.
        if self.mapping.size() < self.offset + self.stored.nbytes:
            raise CheckpointError(f"{self.name}: its file has shrunk while it was read; download it again")

    def _widen(self, part: np.ndarray) -> np.ndarray:
        if self.is_bf16:  # a bfloat16 is the upper half of a float32
            return np.left_shift(part, 16, dtype=np.uint32).view(np.float32)
        return part.astype(np.float32)

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Let the operating system drop the pages of the rows [start, stop), in the file's order."""
        row = self.stored.nbytes // self.shape[0]
        begin = self.offset + start * row - HUGE_PAGE
        end = self.offset + (self.shape[0] if stop is None else stop) * row + HUGE_PAGE
        begin = max(0, begin - begin % mmap.PAGESIZE)
        end = min(end, len(self.mapping))
        if hasattr(self.mapping, "madvise"):
            self.mapping.madvise(mmap.MADV_DONTNEED, begin, end - begin)


@dataclass(frozen=True, slots=True)
class Card:
    """Optional `card.json`: what neither the hyperparameters nor the tokenizer say."""

    scope: str | None = None  # one sentence shown to users
    trained_delays_ms: tuple[int, ...] = (*range(80, 1201, 80), 2400)  # Mistral's model card


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's hyperparameters, tensors and tokenizer, whatever the layout on disk."""

    folder: Path
    layout: str
    config: VoxtralConfig
    tensors: Mapping[str, Tensor]
    tokenizer: bytes  # tekken.json as it is
    card: Card
    files: Mapping[str, tuple[int, int]]  # size and time of change in nanoseconds of each file, when it was opened

    def fingerprint(self) -> str:
        """sha256 over the hyperparameters and the first row of every tensor: the same for every layout."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.rows(0, None if len(tensor.shape) == 1 else 1).tobytes())
            tensor.release(0, 1)
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Compare sizes and times of the files with those at opening.

        Raises:
            CheckpointError: naming every file that changed while it was read.
        """
        now = _versions(self.folder)
        if changed := sorted(name for name in {*self.files, *now} if self.files.get(name) != now.get(name)):
            raise CheckpointError(
                f"{self.folder}: changed while it was read: {', '.join(changed)}; export again when nothing writes it"
            )

    def num_bytes(self, *prefixes: str) -> int:
        """Bytes of the tensors whose names begin so, as stored."""
        return sum(tensor.stored.nbytes for name, tensor in self.tensors.items() if name.startswith(prefixes or ""))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a folder in Mistral's or Hugging Face's layout and check its census.

    Mistral: `params.json`, `consolidated.safetensors`. Hugging Face: `config.json`, `processor_config.json`,
    `model.safetensors` or `model.safetensors.index.json` with shards. Both: `tekken.json`. Where a folder holds both,
    Mistral's is read.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, unknown or misshapen.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: expected a checkpoint folder, found {'a file' if folder.exists() else 'nothing'}"
        )
    files = _versions(folder)
    config = read_config(folder)
    if (folder / "params.json").exists():
        found = _open_safetensors(folder / "consolidated.safetensors")
        layout = weights.MISTRAL
    else:
        found = _open_hf_files(folder)
        live = any(name.startswith("model.") for name in found)
        layout = weights.HF_LIVE if live else weights.HF
    tensors = _take_census(folder, found, config, layout)
    tokenizer = _read_bytes(folder / "tekken.json")
    return Checkpoint(folder, layout.name, config, tensors, tokenizer, read_card(folder), files)


def read_config(folder: Path) -> VoxtralConfig:
    """The hyperparameters of a checkpoint folder of either layout.

    Raises:
        CheckpointError: there are none, or they are not of this architecture.
    """
    if (folder / "params.json").exists():
        return VoxtralConfig.from_params(_read_json(folder / "params.json"))
    if (folder / "config.json").exists():
        return VoxtralConfig.from_hf(_read_json(folder / "config.json"), _read_json(folder / "processor_config.json"))
    raise CheckpointError(
        f"{folder}: expected params.json (Mistral's layout) or config.json (Hugging Face's), found neither"
    )


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
    values = _read_json(index)
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: expected an object 'weight_map' from tensors to files; download it again")
    return weight_map


def _versions(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file that a checkpoint may consist of."""
    try:
        found = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES}
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror or error})") from error
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def _take_census(
    folder: Path, found: dict[str, Tensor], config: VoxtralConfig, layout: weights.Layout
) -> dict[str, Tensor]:
    """Rename what was found; list by name all that is missing, extra or misshapen."""
    problems, tensors, expected = [], {}, weights.tensor_shapes(config)
    for name, shape in expected.items():
        stored_name = layout.rename(name)
        tensor = found.pop(stored_name, None)
        if tensor is None:
            problems.append(f"missing {stored_name} {list(shape)}")
        elif tensor.shape != shape:
            problems.append(f"misshapen {stored_name}: expected {list(shape)}, got {list(tensor.shape)}")
        else:
            head_dim = weights.rotary_head_dim(name, config) if layout.interleaved else None
            order = weights.half_split_rows(shape[0], head_dim) if head_dim else None
            tensors[name] = Tensor(name, shape, tensor.stored, tensor.is_bf16, order, tensor.mapping, tensor.offset)
    for name in layout.tied_copies & found.keys():
        copy = found.pop(name)
        table = tensors.get(weights.EMBEDDING)
        if table is not None and not (copy.shape == table.shape and np.array_equal(copy.stored, table.stored)):
            problems.append(f"{name} differs from the embedding, but this architecture ties them")
        copy.release()
    problems += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in found.items()]
    if problems:
        shown = "\n  ".join(problems[:20] + [f"… and {len(problems) - 20} more"] * (len(problems) > 20))
        raise CheckpointError(
            f"{folder}: expected the {len(expected)} tensors of this configuration in the {layout.name} layout, "
            f"got {len(problems)} differences:\n  {shown}"
        )
    return tensors


def _open_hf_files(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for shard in shard_names(folder):
        tensors |= _open_safetensors(folder / shard)
    if lost := sorted(_read_weight_map(folder).keys() - tensors.keys()):
        raise CheckpointError(f"{folder / _INDEX}: names {len(lost)} tensors that its shards do not hold, as {lost[0]}")
    return tensors


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file. Source: the format's README; offsets count from the end of the header."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 8:
                raise CheckpointError(
                    f"{path}: expected a safetensors header, the file has {size} bytes; download it again"
                )
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > min(_MAX_HEADER, size - 8):
                raise CheckpointError(
                    f"{path}: expected a safetensors file, its header would be {header_size:,} bytes of {size:,}; "
                    "download it again"
                )
            header = json.loads(file.read(header_size))
            if not isinstance(header, dict):
                raise ValueError(f"its header is a {type(header).__name__}")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise StorageError(
                f"{path}: cannot be mapped: the limit on this process's memory leaves no room for its "
                f"{path.stat().st_size / 1e6:,.0f} MB; raise it (ulimit -v unlimited)"
            ) from error
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); download it again") from error

    header.pop("__metadata__", None)
    tensors, base = {}, 8 + header_size
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = _DTYPES.get(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
            if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
                raise ValueError("sizes and offsets are whole numbers")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: malformed entry for {name}; download it again") from error
        if dtype is None:
            raise CheckpointError(f"{path}: {name}: expected BF16, F16 or F32, got {entry['dtype']}")
        count = prod(shape)
        if end - begin != count * dtype.itemsize:
            raise CheckpointError(f"{path}: {name}: {list(shape)} {entry['dtype']} does not fit {end - begin:,} bytes")
        if base + end > size:
            raise CheckpointError(
                f"{path}: truncated: {name} ends at byte {base + end:,}, the file has {size:,}; download it again"
            )
        stored = np.frombuffer(mapping, dtype, count, base + begin).reshape(shape)
        tensors[name] = Tensor(name, shape, stored, entry["dtype"] == "BF16", None, mapping, base + begin)
    return tensors


def read_card(folder: Path) -> Card:
    """`card.json`, or what it stands for where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / "card.json"
    if not path.exists():
        return Card()
    values = _read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(values).__name__}")
    if set(values) - _CARD_KEYS:
        raise CheckpointError(f"{path}: expected the keys {sorted(_CARD_KEYS)}, got {sorted(values)}")
    scope, delays = values.get("scope"), values.get("trained_delays_ms", Card().trained_delays_ms)
    if not isinstance(scope, str | None):
        raise CheckpointError(f"{path}: 'scope': expected a sentence, got {scope!r}")
    if not isinstance(delays, list | tuple) or not all(isinstance(delay, int) for delay in delays):
        raise CheckpointError(f"{path}: 'trained_delays_ms': expected a list of milliseconds, got {delays!r}")
    return Card(scope, tuple(delays))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_bytes(path))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
