"""convert(): an artifact's weights as a GGUF with Mistral's names, every value as it is.

The decoder's delay network is in no graph, because its values for every delay are (MODEL.md, step 6). So an artifact
keeps its matrices, as the checkpoint stored them, in a small GGUF of their own.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from ..config import VoxtralConfig
from ..errors import ArtifactError, QuantizationError, StorageError, UsageError
from ..manifest import Manifest, sync_folder
from ..quant.gguf import BLOCK_SIZE, TYPES, restore
from ..quant.recipe import Recipe, Rule
from . import gguf, weights
from .checkpoint import Checkpoint
from .folder import DELAY_NETWORK
from .gguf import Entry
from .initializers import read_initializers
from .tensors import F16, F32, Encoding, Tensor

SLICE_VALUES = 1 << 20  # handled at a time
_QUANTIZED = {"Q4_0": gguf.Q4_0, "Q8_0": gguf.Q8_0}
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}  # llama.cpp's `general.file_type`


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a GGUF was made of."""

    path: Path
    precision: str
    types: dict[str, int]  # tensors by type
    rounded: str | None  # what of the delay network was rounded, and from what

    @property
    def summary(self) -> str:
        """One line."""
        types = ", ".join(f"{count} {name}" for name, count in sorted(self.types.items()))
        note = f"; {self.rounded}" if self.rounded else ""
        return f"{self.path}: {self.precision} as {types}{note}"


def delay_network(checkpoint: Checkpoint) -> bytes:
    """A GGUF of the decoder's delay network, as the checkpoint stores it."""
    entries = []
    for name, tensor in checkpoint.tensors.items():
        if ".ada_rms_norm." in name:
            parts = _once(tensor.stored_rows().copy())
            tensor.release()
            entries.append(Entry(weights.mistral_name(name), tensor.shape, tensor.encoding, parts))
    file = io.BytesIO()
    gguf.write_gguf(file, {"general.architecture": "voxtral"}, entries)
    return file.getvalue()


def convert(artifact: str | Path, output: str | Path, *, precision: str | None = None) -> Conversion:
    """Write the weights of one precision as a GGUF.

    Symmetric blocks of 4 and 8 bits become Q4_0 and Q8_0, floats stay F16 or F32, vectors and the conv stem are F32.
    Nothing is rounded but the delay network where it is stored in another type than the matrices beside it.

    Args:
        artifact: its folder.
        output: the file to be written, which must not exist.
        precision: one of the artifact's, by default its first.

    Raises:
        ArtifactError: the artifact is damaged, or of a version that kept no delay network.
        QuantizationError: blocks that no GGUF type holds.
        StorageError: the file exists or cannot be written.
    """
    folder, output = Path(artifact), Path(output)
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    if precision is not None and precision not in manifest.precisions:
        raise UsageError(f"precision: {folder} has {list(manifest.precisions)}, got {precision!r}")
    if DELAY_NETWORK not in manifest.files:
        raise ArtifactError(f"{folder}: holds no {DELAY_NETWORK}; export it again with this version")
    chosen = precision or next(iter(manifest.precisions))
    entries, rounded = _entries(folder, manifest, chosen)
    types = Counter(entry.encoding.name for entry in entries)
    largest = max(entries, key=lambda entry: prod(entry.shape)).encoding.name
    metadata = {
        "general.architecture": "voxtral",
        "general.name": "Voxtral Mini 4B Realtime",
        "general.quantization_version": 2,
        "general.file_type": _FILE_TYPES[largest],
        gguf.CONFIG: json.dumps(manifest.config.to_dict()),
    }
    _write(output, metadata, entries)
    return Conversion(output, chosen, dict(types), rounded)


def _entries(folder: Path, manifest: Manifest, precision: str) -> tuple[list[Entry], str | None]:
    """Every tensor of the census, and what of the delay network is rounded."""
    kind, config = manifest.precisions[precision], manifest.config
    recipe = Recipe.from_dict(kind.recipe)
    found = read_initializers(folder, kind.encoder) | read_initializers(folder, kind.decoder)
    network, _ = gguf.open_gguf([folder / DELAY_NETWORK])
    entries, rounded = {}, Counter()
    for name, shape in weights.tensor_shapes(config).items():
        theirs, module = weights.mistral_name(name), name.removesuffix(".weight")
        order = _interleaved_rows(name, config, shape[0])
        if ".ada_rms_norm." in name:
            continue
        if f"{module}.zero_points" in found:
            raise QuantizationError(
                f"{folder}: {precision}: {module} has zero points, which neither Q4_0 nor Q8_0 can hold; export with "
                "--recipe gguf-q4_0 or --recipe gguf-q8_0 and convert that, or convert another precision: --precision "
                "q8, fp16 or fp32"
            )
        if f"{module}.scales" in found:
            rule = recipe.rule_for(module)
            assert rule is not None, f"{module}: quantised by no rule"
            part = replace(found[name], order=order), replace(found[f"{module}.scales"], order=order)
            entries[name] = _blocks(theirs, shape, rule, *part)
        elif len(shape) == 2:
            entries[name] = _matrix(theirs, shape, found[name], order, transposed=name != weights.EMBEDDING)
        else:
            entries[name] = _floats(theirs, shape, replace(found[name], order=order))
    for name, shape in weights.tensor_shapes(config).items():
        if ".ada_rms_norm." in name:
            beside = entries[f"{name.split('.ada_rms_norm.')[0]}.mlp.gate_proj.weight"].encoding
            tensor = network[weights.mistral_name(name)]
            rounded[tensor.encoding.name, beside.name] += tensor.encoding != beside and beside != F32
            entries[name] = _as_type(tensor, shape, beside)
    notes = [f"{count} matrices of the delay network from {a} to {b}" for (a, b), count in rounded.items() if count]
    return list(entries.values()), f"rounded: {', '.join(notes)}" if notes else None


def _interleaved_rows(name: str, config: VoxtralConfig, num_rows: int) -> np.ndarray | None:
    """For each of Mistral's rows ours, or None where the order is the same."""
    head_dim = weights.rotary_head_dim(name, config)
    return None if head_dim is None else np.argsort(weights.half_split_rows(num_rows, head_dim))


def _blocks(name: str, shape: tuple[int, ...], rule: Rule, packed: Tensor, scales: Tensor) -> Entry:
    """MatMulNBits' blocks as Q4_0 or Q8_0; a larger block becomes several with the same scale."""
    if rule.block_size < BLOCK_SIZE or shape[1] % BLOCK_SIZE:
        raise QuantizationError(
            f"{name} {list(shape)}: blocks of {rule.block_size} do not make blocks of {BLOCK_SIZE}; export with "
            "--recipe gguf-q4_0 or gguf-q8_0"
        )
    ratio, count = rule.block_size // BLOCK_SIZE, shape[1] // BLOCK_SIZE

    def rows(start: int, stop: int) -> np.ndarray:
        codes = packed.stored_rows(start, stop).reshape(stop - start, -1, 4 * rule.bits)[:, :count]
        values = scales.rows(start, stop).repeat(ratio, 1)[:, :count]
        if not np.array_equal(values, values.astype(np.float16)):
            raise QuantizationError(f"{name}: has scales that are no float16 values, which no GGUF block can hold")
        return restore(codes, values, rule.bits)

    return Entry(name, shape, _QUANTIZED[TYPES[rule.bits]], _sliced(shape, rows, packed, scales))


def _matrix(name: str, shape: tuple[int, ...], tensor: Tensor, order: np.ndarray | None, *, transposed: bool) -> Entry:
    """A float matrix, which MatMul has transposed."""

    def rows(start: int, stop: int) -> np.ndarray:
        if not transposed:
            return _bytes(tensor.rows(start, stop), tensor.encoding)
        wanted = np.arange(start, stop) if order is None else order[start:stop]
        first = int(wanted.min())
        return _bytes(tensor.columns(first, int(wanted.max()) + 1)[wanted - first], tensor.encoding)

    return Entry(name, shape, tensor.encoding, _sliced(shape, rows, tensor))


def _floats(name: str, shape: tuple[int, ...], tensor: Tensor) -> Entry:
    return Entry(name, shape, F32, _sliced(shape, lambda start, stop: _bytes(tensor.rows(start, stop), F32), tensor))


def _as_type(tensor: Tensor, shape: tuple[int, ...], encoding: Encoding) -> Entry:
    """A matrix of the delay network in the type of the others: what is stored so stays as it is."""
    if tensor.encoding == encoding:
        return Entry(tensor.name, shape, encoding, lambda: iter([tensor.stored_rows()]))
    if encoding in (F16, F32):
        return Entry(tensor.name, shape, encoding, lambda: iter([_bytes(tensor.rows(), encoding)]))

    def parts() -> Iterator[np.ndarray]:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import quantize

        yield quantize(tensor.rows(), GGMLQuantizationType[encoding.name])

    return Entry(tensor.name, shape, encoding, parts)


def _bytes(values: np.ndarray, encoding: Encoding) -> np.ndarray:
    dtype = np.float16 if encoding == F16 else np.float32
    return np.ascontiguousarray(values.astype(dtype)).reshape(-1).view(np.uint8)


def _once(values: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: iter([values])


def _sliced(
    shape: tuple[int, ...], rows: Callable[[int, int], np.ndarray], *sources: Tensor
) -> Callable[[], Iterator[np.ndarray]]:
    """Slices of rows of bounded size; the pages of what they are made from are dropped behind them."""
    step = max(1, SLICE_VALUES // prod(shape[1:]))

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, shape[0], step):
            yield rows(start, min(start + step, shape[0]))
            for source in sources:
                source.release()

    return parts


def _write(path: Path, metadata: dict[str, str | int], entries: list[Entry]) -> None:
    """Write the file so that its name only ever stands for the whole of it."""
    if path.exists():
        raise StorageError(f"{path}: exists; remove it or choose another name")
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            gguf.write_gguf(file, metadata, entries)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise
