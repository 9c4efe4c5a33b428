"""Stream the checkpoint's weights into the external data files of graphs.

The location of every initializer follows from the shapes of the parameters alone, so all sizes are
known before anything is made or written. Rows are read, converted and written in slices. Graphs of
several precisions are bound in one pass: a weight that two of them quantise by the same rule is
read and quantised once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from ..checkpoint.external_data import TensorLocation, read_locations
from ..checkpoint.open import Checkpoint
from ..graph.unbound import UnboundGraph
from .data_files import DataFiles
from .layout import ExternalDataLayout
from .recipes import weight_recipes

GLIBC_MAPPED = 31 << 20  # bytes; blocks of 32 MB and more do not count


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an export, while it works on graphs that are bound in one pass."""

    graphs: tuple[str, ...]  # names of their files
    tensor: str  # the tensor last bound, empty in other steps
    done: int  # bytes of the checkpoint, out of `total`
    total: int
    step: Literal["graphs", "weights", "hashes"] = "weights"  # what is made


def bind(
    graphs: Sequence[tuple[UnboundGraph, ExternalDataLayout]],
    checkpoint: Checkpoint,
    folder: Path,
    threads: int,
    on_progress: Callable[[Progress], None],
) -> None:
    """Write the data files of some graphs and point the graphs' initializers at them.

    The graphs are one in several precisions. Files are written as `*.partial` and renamed
    when complete.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
        QuantizationError: a weight is not finite.
        CheckpointError: a file of the checkpoint has shrunk.
    """
    _keep_freed_memory()
    files = tuple(graph.plan.graph_file for graph, _ in graphs)
    steps = list(
        zip(*(weight_recipes(graph.plan.parts, checkpoint) for graph, _ in graphs), strict=True)
    )
    total, done = sum(tensor.num_bytes for step in steps for tensor in step[0].tensors), 0
    with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
        sinks = [
            stack.enter_context(DataFiles(folder, layout, graph.plan.parts))
            for graph, layout in graphs
        ]
        for step in steps:
            for recipe in {recipe.rule: recipe for recipe in step}.values():
                same = [
                    sink
                    for sink, other in zip(sinks, step, strict=True)
                    if other.rule == recipe.rule
                ]
                recipe.run(pool, same)
            for tensor in step[0].tensors:
                done += tensor.num_bytes
                on_progress(Progress(files, tensor.name, done, total))
                tensor.release()
    for graph, layout in graphs:
        _point_at_files(graph, layout.locations, folder)


def _keep_freed_memory() -> None:
    """Have glibc keep the memory of freed arrays for the next slice.

    It gives back to the system what exceeds twice the largest block that it mapped and unmapped so
    far. The page faults of mapping every slice's arrays anew take a fifth of the time of a binding.
    """
    np.empty(GLIBC_MAPPED, np.uint8)


def share_weights(graph: UnboundGraph, folder: Path) -> None:
    """Point a graph's initializers at the data files of the graph that it shares weights of.

    Locations are read from that graph's file, which an earlier export may have written. Constants
    that those data files lack are stored in the graph itself.

    Raises:
        ArtifactError: that graph's file does not parse.
    """
    assert graph.plan.shares_weights_of is not None
    own = {
        part.prefix + name: values
        for part in graph.plan.parts.values()
        if part.constants
        for name, values in part.constants().items()
    }
    for name, values in own.items():
        graph.model.graph.initializers[name].const_value = ir.tensor(values, name=name)
    _point_at_files(graph, read_locations(folder, graph.plan.shares_weights_of), folder)


def _point_at_files(
    graph: UnboundGraph, locations: Mapping[str, TensorLocation], folder: Path
) -> None:
    initializers = graph.model.graph.initializers
    for name in initializers.keys() & locations.keys():
        value, location = initializers[name], locations[name]
        assert value.dtype is not None and value.shape is not None
        num_bytes = prod(value.shape.numpy()) * value.dtype.bitwidth // 8
        assert num_bytes == location.size, f"{name}: made in another size"
        value.const_value = ir.ExternalTensor(
            Path(location.file).name,
            location.offset,
            location.size,
            value.dtype,
            shape=value.shape,
            name=name,
            base_dir=str((folder / location.file).parent),
        )
    for name in initializers.keys() - locations.keys():  # constants
        value = initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy(), name=name)
