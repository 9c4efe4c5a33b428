"""Weights into a traced graph: every initializer gets its place in the data files, then the checkpoint streams in.

Places follow from shapes alone, so all sizes are known before a byte is written. Rows are read, converted and written
in slices; memory does not grow with the tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from ..errors import StorageError
from ..manifest import MAX_DELAY_TOKENS
from ..quant.blocks import quantize_blockwise
from . import modules
from .checkpoint import Checkpoint, Tensor
from .trace import Traced

ALIGNMENT = 4096  # bytes; what onnxruntime needs to map a tensor
SLICE_ELEMENTS = 1 << 19  # converted at a time; smaller slices lose the second thread to the interpreter's lock


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one graph is."""

    graph: str  # its file
    tensor: str  # the tensor last bound, empty while the graph is traced
    done: int  # bytes of the checkpoint
    total: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an initializer's bytes stand."""

    file: str  # below the artifact folder
    offset: int
    size: int


@dataclass(slots=True)
class Layout:
    """Places of all initializers, and the size of each data file."""

    places: dict[str, Place] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def lay_out(traced: Traced, shard_size: int) -> Layout:
    """Give every initializer that the checkpoint fills its place, in the module's order, the tied table last and apart.

    A file ends before it would outgrow `shard_size` bytes; a larger tensor stands alone.
    """
    layout = Layout()
    initializers = traced.model.graph.initializers
    table = [name for name in traced.module.state_dict() if ".embed_tokens." in name]
    others = [name for name in traced.module.state_dict() if name not in table]
    shards: list[list[str]] = [[]]
    size = 0
    for name in others:
        need = _aligned(_num_bytes(initializers[name]))
        if shards[-1] and size + need > shard_size:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += need
    if table:
        shards.append([name for name in table if not name.endswith(".gather_scales")])
    for number, shard in enumerate(shards):
        file = traced.plan.data_file + (f"_{number}" if number else "")
        offset = 0
        for name in shard:
            need = _num_bytes(initializers[name])
            layout.places[name] = Place(file, offset, need)
            offset += _aligned(need)
        last = layout.places[shard[-1]]
        layout.sizes[file] = last.offset + last.size
    for name in table:
        if name.endswith(".gather_scales"):  # the same bytes under a third axis
            layout.places[name] = layout.places[name.replace(".gather_scales", ".scales")]
    return layout


def bind(
    traced: Traced, checkpoint: Checkpoint, layout: Layout, folder: Path, on_progress: Callable[[Progress], None]
) -> int:
    """Write the data files as `*.partial`, rename them when whole, and point the graph's initializers at them.

    Returns how many of the checkpoint's parameters went in.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
        QuantizationError: a weight is not finite.
    """
    initializers, num_parameters, done = traced.model.graph.initializers, 0, 0
    fills = list(fills_of(traced.module, checkpoint))
    total = sum(tensor.stored.nbytes for fill in fills for tensor in fill.tensors)
    with _DataFiles(folder, layout) as files, ThreadPoolExecutor(os.cpu_count()) as pool:
        for fill in fills:
            pending = [pool.submit(fill.write, files, start, stop) for start, stop in fill.slices()]
            for future in pending:
                future.result()
            for tensor in fill.tensors:
                num_parameters += tensor.stored.size
                done += tensor.stored.nbytes
                on_progress(Progress(traced.plan.graph_file, tensor.name, done, total))
                tensor.release()
    for name, place in layout.places.items():
        value = initializers[name]
        assert value.dtype is not None and value.shape is not None
        value.const_value = ir.ExternalTensor(
            Path(place.file).name,
            place.offset,
            place.size,
            value.dtype,
            shape=value.shape,
            name=name,
            base_dir=str((folder / place.file).parent),
        )
    for name in initializers.keys() - layout.places.keys():  # constants of the tracer
        value = initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy(), name=name)
    return num_parameters


class Sink(Protocol):
    """Where initializers are written."""

    def write(self, name: str, array: np.ndarray, at: int) -> None:
        """Write an array's bytes `at` bytes into the initializer's place, from any thread."""
        ...


class _DataFiles:
    """Open data files of one graph, written at any offset from any thread."""

    def __init__(self, folder: Path, layout: Layout):
        self.layout, self.paths, self.handles = layout, {name: folder / name for name in layout.sizes}, {}

    def __enter__(self) -> _DataFiles:
        for name, path in self.paths.items():
            try:
                handle = os.open(_partial(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
                self.handles[name] = handle
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle, 0, self.layout.sizes[name])
                else:
                    os.ftruncate(handle, self.layout.sizes[name])
            except OSError as error:
                self.__exit__(error)
                raise _storage_error(path, error) from error
        return self

    def write(self, name: str, array: np.ndarray, at: int) -> None:
        """Write to the initializer's file."""
        place = self.layout.places[name]
        assert at + array.nbytes <= place.size, f"{name}: {array.nbytes} bytes at {at} exceed {place.size}"
        view, offset = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, place.offset + at
        while view:
            try:
                written = os.pwrite(self.handles[place.file], view, offset)
            except OSError as error:
                raise _storage_error(self.paths[place.file], error) from error
            view, offset = view[written:], offset + written

    def __exit__(self, error, *_) -> None:
        for name, handle in self.handles.items():
            os.close(handle)
            if error is None:
                _partial(self.paths[name]).replace(self.paths[name])
            else:
                _partial(self.paths[name]).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Fill:
    """How some initializers are made from some tensors, in slices of rows."""

    tensors: tuple[Tensor, ...]
    write: Callable[[Sink, int, int], None]  # to where, first row, end row
    num_rows: int = 1
    row_elements: int = 1

    def slices(self) -> Iterator[tuple[int, int]]:
        """Row ranges of bounded size."""
        step = max(1, SLICE_ELEMENTS // self.row_elements)
        for start in range(0, self.num_rows, step):
            yield start, min(start + step, self.num_rows)


def fills_of(module: nn.Module, checkpoint: Checkpoint) -> Iterator[Fill]:
    """The fills of every parameter of a traced module."""
    for path, part in module.named_modules():
        prefix = path + "." if path else ""
        tensors = checkpoint.tensors
        match part:
            case modules.QuantizedLinear() | modules.QuantizedTiedEmbedding():
                yield _quantize(prefix, tensors[prefix + "weight"], part)
            case modules.Linear():
                yield _transpose(prefix + "weight", tensors[prefix + "weight"], part.weight.dtype)
            case modules.RMSNorm() | modules.Conv() | modules.TiedEmbedding():
                yield _copy(prefix + "weight", tensors[prefix + "weight"], part.weight.dtype)
            case modules.DelayGain():
                yield _delay_gains(prefix, tensors, part)
            case modules.Decoder():
                yield _blank_mask(prefix + "blank_mask", part)
        bias = getattr(part, "bias", None)
        if bias is not None:
            yield _copy(prefix + "bias", tensors[prefix + "bias"], bias.dtype)


def _copy(name: str, tensor: Tensor, dtype: torch.dtype) -> Fill:
    row_elements = prod(tensor.shape[1:])
    kind = _numpy_dtype(dtype)

    def write(sink: Sink, start: int, stop: int) -> None:
        sink.write(name, tensor.rows(start, stop).astype(kind), start * row_elements * kind.itemsize)
        tensor.release(start, stop)

    return Fill((tensor,), write, tensor.shape[0], row_elements)


def _transpose(name: str, tensor: Tensor, dtype: torch.dtype) -> Fill:
    def write(sink: Sink, start: int, stop: int) -> None:
        sink.write(name, tensor.rows().T.astype(_numpy_dtype(dtype)), 0)

    return Fill((tensor,), write)


def _quantize(prefix: str, tensor: Tensor, part: modules.QuantizedLinear | modules.QuantizedTiedEmbedding) -> Fill:
    kind = _numpy_dtype(part.scales.dtype)

    def write(sink: Sink, start: int, stop: int) -> None:
        blocks = quantize_blockwise(tensor.rows(start, stop), part.rule, tensor.name)
        pieces = {"weight": blocks.packed, "scales": blocks.scales.astype(kind), "zero_points": blocks.zero_points}
        for field_name, array in pieces.items():
            if array is not None:
                sink.write(prefix + field_name, array, start * array.nbytes // (stop - start))
        tensor.release(start, stop)

    return Fill((tensor,), write, *tensor.shape)


def _delay_gains(prefix: str, tensors, part: modules.DelayGain) -> Fill:
    linear1, linear2 = (tensors[f"{prefix}{name}.weight"] for name in ("linear1", "linear2"))

    def write(sink: Sink, start: int, stop: int) -> None:
        gains = delay_gains(linear1.rows(), linear2.rows())
        sink.write(prefix + "table", gains[:, None].astype(_numpy_dtype(part.table.dtype)), 0)

    return Fill((linear1, linear2), write)


def delay_gains(linear1: np.ndarray, linear2: np.ndarray) -> np.ndarray:
    """1 + linear2(gelu(linear1(t(n)))) for n = 0..30 delay tokens: float64 [31, hidden_size].

    t(n) is the cosine, then the sine of n times 10000^(-2j / hidden_size). Exact for every delay, so the network itself
    leaves the graph. Source: MODEL.md step 6.
    """
    half = linear1.shape[1] // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half)
    angles = np.arange(MAX_DELAY_TOKENS + 1)[:, None] * frequencies
    embedding = torch.from_numpy(np.concatenate((np.cos(angles), np.sin(angles)), 1))
    inner = torch.nn.functional.gelu(embedding @ torch.from_numpy(linear1).double().T)
    return (1 + inner @ torch.from_numpy(linear2).double().T).numpy()


def _blank_mask(name: str, part: modules.Decoder) -> Fill:
    def write(sink: Sink, start: int, stop: int) -> None:
        mask = np.zeros(tuple(part.blank_mask.shape), np.float32)
        mask[part.blank] = modules.MASKED
        sink.write(name, mask, 0)

    return Fill((), write)


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return np.dtype(str(dtype).removeprefix("torch."))


def _num_bytes(value: ir.Value) -> int:
    assert value.shape is not None and value.dtype is not None
    return prod(value.shape.numpy()) * int(value.dtype.itemsize)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder")
