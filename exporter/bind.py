"""Weights into traced graphs.

Every initializer gets its place in the data files, then the checkpoint streams in.

Places follow from the module's shapes alone, so all sizes are known before anything is traced or
written. Rows are read, converted and written in slices. Graphs of several precisions are filled in
one pass: what two of them quantise by the same rule is read and quantised once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from ..errors import StorageError
from ..manifest import MAX_DELAY_TOKENS, sync_folder
from ..quant import gguf
from ..quant.blocks import quantize_blockwise
from ..quant.packing import pack, unpack
from ..quant.recipe import Rule
from . import modules
from .checkpoint import Checkpoint
from .initializers import Place, read_places
from .tensors import Tensor
from .trace import Traced

ALIGNMENT = 4096  # bytes; what onnxruntime needs to map a tensor
# converted at a time; smaller slices lose the second thread to the interpreter's lock
SLICE_ELEMENTS = 1 << 19
MAPPED_ELEMENTS = 1 << 23  # of a checkpoint's pages at most in memory where columns are read


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the graphs are that are made together."""

    graphs: tuple[str, ...]  # their files
    tensor: str  # the tensor last bound, empty while a graph is traced
    done: int  # bytes of the checkpoint
    total: int


@dataclass(slots=True)
class Layout:
    """Places of all initializers, and the size of each data file."""

    places: dict[str, Place] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def lay_out(module: nn.Module, data_file: str, shard_size: int) -> Layout:
    """Assign every parameter of a module a location in the external data files.

    They stand in the module's order, the tied table last and in a file of its own.

    A file ends before it would outgrow `shard_size` bytes; a larger tensor stands alone. The first
    is `data_file`, the next `data_file` with `_1`.
    """
    layout = Layout()
    sizes = {
        name: value.numel() * value.element_size() for name, value in module.state_dict().items()
    }
    # the same bytes
    aliases = {name: name.replace(".gather_", ".") for name in sizes if ".gather_" in name}
    table = [name for name in sizes if ".embed_tokens." in name and name not in aliases]
    shards: list[list[str]] = [[]]
    size = 0
    for name in [name for name in sizes if name not in table and name not in aliases]:
        need = _aligned(sizes[name])
        if shards[-1] and size + need > shard_size:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += need
    if table:
        shards.append(table)
    for number, shard in enumerate(filter(None, shards)):
        file = data_file + (f"_{number}" if number else "")
        offset = 0
        for name in shard:
            layout.places[name] = Place(file, offset, sizes[name])
            offset += _aligned(sizes[name])
        last = layout.places[shard[-1]]
        layout.sizes[file] = last.offset + last.size
    layout.places |= {name: layout.places[source] for name, source in aliases.items()}
    return layout


def bind(
    graphs: Sequence[tuple[Traced, Layout]],
    checkpoint: Checkpoint,
    folder: Path,
    threads: int,
    on_progress: Callable[[Progress], None],
) -> None:
    """Write the data files and point the graphs' initializers at them.

    They are written as `*.partial` and renamed when whole.

    The graphs are one module in several precisions.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
        QuantizationError: a weight is not finite.
        CheckpointError: a file of the checkpoint has shrunk.
    """
    files = tuple(traced.plan.graph_file for traced, _ in graphs)
    steps = list(zip(*(fills_of(traced.module, checkpoint) for traced, _ in graphs), strict=True))
    total, done = sum(tensor.num_bytes for step in steps for tensor in step[0].tensors), 0
    with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
        sinks = [
            stack.enter_context(_DataFiles(folder, layout, traced.module))
            for traced, layout in graphs
        ]
        for step in steps:
            for fill in {fill.rule: fill for fill in step}.values():
                same = [
                    sink for sink, other in zip(sinks, step, strict=True) if other.rule == fill.rule
                ]
                fill.run(pool, same)
            for tensor in step[0].tensors:
                done += tensor.num_bytes
                on_progress(Progress(files, tensor.name, done, total))
                tensor.release()
    for traced, layout in graphs:
        _point_at_files(traced, layout.places, folder)


def borrow(traced: Traced, folder: Path) -> None:
    """Point a graph's initializers at the data files of its lender.

    What the lender lacks stands in the graph itself.

    Places are read from the lender's file, which an earlier export may have written.

    Raises:
        ArtifactError: the lender's file does not parse.
    """
    assert traced.plan.lender is not None
    own = {
        f"{path}.{name}" if path else name: values
        for path, part in traced.module.named_modules()
        if isinstance(part, modules.WithConstants)
        for name, values in part.constants().items()
    }
    for name, values in own.items():
        traced.model.graph.initializers[name].const_value = ir.tensor(values, name=name)
    _point_at_files(traced, read_places(folder, traced.plan.lender), folder)


def _point_at_files(traced: Traced, places: Mapping[str, Place], folder: Path) -> None:
    initializers = traced.model.graph.initializers
    for name in initializers.keys() & places.keys():
        value, place = initializers[name], places[name]
        assert value.dtype is not None and value.shape is not None
        num_bytes = prod(value.shape.numpy()) * value.dtype.bitwidth // 8
        assert num_bytes == place.size, f"{name}: traced in another size"
        value.const_value = ir.ExternalTensor(
            Path(place.file).name,
            place.offset,
            place.size,
            value.dtype,
            shape=value.shape,
            name=name,
            base_dir=str((folder / place.file).parent),
        )
    for name in initializers.keys() - places.keys():  # constants, of the tracer too
        value = initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy(), name=name)


class Sink(Protocol):
    """Where initializers are written."""

    def write(self, name: str, values: np.ndarray, at: int) -> None:
        """Write values from the initializer's element `at` on, in its own type, from any thread."""
        ...


class _DataFiles:
    """Open data files of one graph, written at any offset from any thread."""

    def __init__(self, folder: Path, layout: Layout, module: nn.Module):
        self.folder, self.layout, self.handles = folder, layout, {}
        self.paths = {name: folder / name for name in layout.sizes}
        self.dtypes = {
            name: _numpy_dtype(value.dtype) for name, value in module.state_dict().items()
        }

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

    def write(self, name: str, values: np.ndarray, at: int) -> None:
        """Write to the initializer's file."""
        place, dtype = self.layout.places[name], self.dtypes[name]
        array = np.ascontiguousarray(values.astype(dtype, copy=False))
        view, offset = array.reshape(-1).view(np.uint8).data, at * dtype.itemsize
        assert offset + array.nbytes <= place.size, (
            f"{name}: {array.nbytes} bytes at {offset} exceed {place.size}"
        )
        offset += place.offset
        while view:
            try:
                written = os.pwrite(self.handles[place.file], view, offset)
            except OSError as error:
                raise _storage_error(self.paths[place.file], error) from error
            view, offset = view[written:], offset + written

    def __exit__(self, error, *_) -> None:
        try:
            if error is None:
                for handle in self.handles.values():
                    os.fsync(handle)
        except OSError as failure:
            error = failure
            raise _storage_error(self.folder, failure) from failure
        finally:
            for handle in self.handles.values():
                os.close(handle)
            for path in self.paths.values():
                if error is None:
                    _partial(path).replace(path)
                else:
                    _partial(path).unlink(missing_ok=True)
                sync_folder(path.parent)


@dataclass(frozen=True, slots=True)
class Fill:
    """How some initializers are made from some tensors, in slices of rows."""

    tensors: tuple[Tensor, ...]
    # first row, end row -> values of these rows by initializer
    make: Callable[[int, int], dict[str, np.ndarray]]
    # fills of one part of the module by the same rule make the same values
    rule: Rule | None = None
    num_rows: int = 1
    row_elements: int = 1

    def slices(self) -> Iterator[tuple[int, int]]:
        """Row ranges of bounded size."""
        step = max(1, SLICE_ELEMENTS // self.row_elements)
        for start in range(0, self.num_rows, step):
            yield start, min(start + step, self.num_rows)

    def run(self, pool: Executor, sinks: Sequence[Sink]) -> None:
        """Make all rows, slices at a time, and write them to every sink."""
        for _ in pool.map(lambda rows: self.write(sinks, *rows), self.slices()):
            pass

    def write(self, sinks: Sequence[Sink], start: int, stop: int) -> None:
        """Make the rows [start, stop) once and write them to every sink."""
        for name, values in self.make(start, stop).items():
            for sink in sinks:
                sink.write(name, values, start * (values.size // (stop - start)))


def fills_of(module: nn.Module, checkpoint: Checkpoint, name: str = "") -> Iterator[Fill]:
    """Yield the weight recipes of every parameter of a module.

    `name` is the module's name in the model. The order is the same for every precision.
    """
    for path, part in module.named_modules(prefix=name):
        prefix = path + "." if path else ""
        tensors = checkpoint.tensors
        match part:
            case modules.QuantizedLinear() | modules.QuantizedTiedEmbedding():
                yield _quantize(prefix, tensors[prefix + "weight"], part.rule)
            case modules.DequantizedWeight():
                yield _quantize_transposed(prefix, tensors[prefix + "weight"], part.rule)
            case modules.Linear():
                yield _transpose(prefix + "weight", tensors[prefix + "weight"])
            case modules.RMSNorm() | modules.Conv() | modules.TiedEmbedding():
                yield _copy(prefix + "weight", tensors[prefix + "weight"])
            case modules.DelayGain():
                yield _delay_gains(prefix, tensors)
            case modules.WithConstants():
                yield _constants(prefix, part)
        if getattr(part, "bias", None) is not None:
            yield _copy(prefix + "bias", tensors[prefix + "bias"])


def _copy(name: str, tensor: Tensor) -> Fill:
    def make(start: int, stop: int) -> dict[str, np.ndarray]:
        values = tensor.rows(start, stop)
        tensor.release(start, stop)
        return {name: values}

    return Fill((tensor,), make, None, tensor.shape[0], prod(tensor.shape[1:]))


def _transpose(name: str, tensor: Tensor) -> Fill:
    rows, columns = tensor.shape
    return Fill(
        (tensor,), lambda start, stop: {name: tensor.columns(start, stop)}, None, columns, rows
    )


def _quantize(prefix: str, tensor: Tensor, rule: Rule) -> Fill:
    def make(start: int, stop: int) -> dict[str, np.ndarray]:
        if gguf.keeps(rule, tensor.encoding.name):
            blocks = gguf.repack(tensor.stored_rows(start, stop), rule.bits, tensor.name)
        else:
            blocks = quantize_blockwise(tensor.rows(start, stop), rule, tensor.name)
        tensor.release(start, stop)
        pieces = {
            "weight": blocks.packed,
            "scales": blocks.scales,
            "zero_points": blocks.zero_points,
        }
        return {prefix + name: values for name, values in pieces.items() if values is not None}

    return Fill((tensor,), make, rule, *tensor.shape)


def _quantize_transposed(prefix: str, tensor: Tensor, rule: Rule) -> Fill:
    """Return the weight recipe that puts a matrix's inputs along the first axis.

    Codes and scales are those of `_quantize`, made for some blocks of inputs and all outputs at a
    time.
    """
    outputs, inputs = tensor.shape
    num_blocks, middle = -(-inputs // rule.block_size), 1 << (rule.bits - 1)
    step = max(1, MAPPED_ELEMENTS // inputs)

    def make(start: int, stop: int) -> dict[str, np.ndarray]:
        first, last = start * rule.block_size, min(stop * rule.block_size, inputs)
        codes = np.empty((last - first, outputs), np.uint8)
        scales = np.empty((stop - start, outputs), np.float32)
        zeros = np.full((stop - start, outputs), middle, np.uint8)
        for begin in range(0, outputs, step):
            end = min(begin + step, outputs)
            if gguf.keeps(rule, tensor.encoding.name):
                stored = tensor.stored_rows(begin, end).reshape(end - begin, num_blocks, -1)[
                    :, start:stop
                ]
                blocks = gguf.repack(stored.reshape(end - begin, -1), rule.bits, tensor.name)
            else:
                blocks = quantize_blockwise(
                    tensor.columns(first, last, begin, end).T, rule, tensor.name
                )
            of_rows = unpack(blocks.packed, rule.bits, rule.block_size).reshape(end - begin, -1)
            codes[:, begin:end] = of_rows[:, : last - first].T
            scales[:, begin:end] = blocks.scales.T
            if blocks.zero_points is not None:
                zeros[:, begin:end] = unpack(blocks.zero_points, rule.bits, stop - start).T
            tensor.release(begin, end)
        return {
            prefix + "weight": pack(codes, rule.bits),
            prefix + "scales": scales,
            prefix + "zero_points": pack(zeros, rule.bits),
        }

    # codes are kept, in bytes
    return Fill((tensor,), make, rule, num_blocks, rule.block_size * outputs // 4)


def _delay_gains(prefix: str, tensors: Mapping[str, Tensor]) -> Fill:
    """Compute the table, or copy an artifact's."""
    if (table := tensors.get(prefix + "table")) is not None:
        return _copy(prefix + "table", table)
    linear1, linear2 = (tensors[f"{prefix}{name}.weight"] for name in ("linear1", "linear2"))
    return Fill(
        (linear1, linear2),
        lambda start, stop: {prefix + "table": delay_gains(linear1.rows(), linear2.rows())},
    )


def delay_gains(linear1: np.ndarray, linear2: np.ndarray) -> np.ndarray:
    """Return 1 + linear2(gelu(linear1(t(n)))), float32 [31, hidden_size], for n = 0..30 tokens.

    t(n) is the cosine, then the sine of n times 10000^(-2j / hidden_size). Exact for every delay,
    so the network itself leaves the graph. Computed in float64, and rounded to float32 also where
    float16 is stored: a float32 artifact then holds what its checkpoint gives. Source: MODEL.md
    step 6.
    """
    half = linear1.shape[1] // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half)
    angles = np.arange(MAX_DELAY_TOKENS + 1)[:, None] * frequencies
    embedding = torch.from_numpy(np.concatenate((np.cos(angles), np.sin(angles)), 1))
    inner = torch.nn.functional.gelu(embedding @ torch.from_numpy(linear1).double().T)
    return (1 + inner @ torch.from_numpy(linear2).double().T).float().numpy()


def _constants(prefix: str, part: modules.WithConstants) -> Fill:
    return Fill(
        (), lambda start, stop: {prefix + name: values for name, values in part.constants().items()}
    )


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return np.dtype(str(dtype).removeprefix("torch."))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written ({error.strerror or error}); free space or "
        "choose another folder"
    )
