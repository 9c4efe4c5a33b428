"""Read a graph's weights as floats, however they are stored: in blocks, transposed, in float16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..errors import ArtifactError
from ..quant.packing import unpack
from .subgraphs import StagedGraph


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight as its graph stores it: the initializers that make it up, and how."""

    name: str  # of the initializer with the values or codes
    shape: tuple[int, ...]  # of the weight; a matrix is [outputs, inputs]
    form: str  # in words, such as "float16" or "4 bits in blocks of 32, float32 scales"
    is_transposed: bool = False  # a matrix that MatMul takes as [inputs, outputs]
    bits: int | None = None  # of a code; None for floats
    block_size: int = 0  # codes that share a scale
    scales: str = ""
    zero_points: str = ""  # empty where they are the middle code everywhere

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names of its initializers."""
        return tuple(name for name in (self.name, self.scales, self.zero_points) if name)

    def rows(self, graph: StagedGraph, start: int, stop: int) -> np.ndarray:
        """Return a float32 copy of the rows [start, stop) of the first axis.

        Raises:
            ArtifactError: the initializers do not make up the weight.
        """
        try:
            if self.bits is None:
                values = graph.stored(self.name)
                part = values[:, start:stop].T if self.is_transposed else values[start:stop]
                return np.array(part, np.float32)
            return self._dequantized(graph, start, stop)
        except (ValueError, IndexError) as error:
            raise ArtifactError(
                f"{graph.path}: {self.name}: expected {self.form} that make up "
                f"{list(self.shape)} ({error}); export again"
            ) from error

    def _dequantized(self, graph: StagedGraph, start: int, stop: int) -> np.ndarray:
        assert self.bits is not None
        rows, columns = slice(start, stop), self.shape[1]
        packed, scales = graph.stored(self.name)[rows], graph.stored(self.scales)[rows]
        num_rows, num_blocks = len(packed), -(-columns // self.block_size)
        codes = unpack(packed.reshape(num_rows, num_blocks, -1), self.bits, self.block_size)
        middle: np.ndarray | np.float32 = np.float32(1 << (self.bits - 1))
        if self.zero_points:
            packed = graph.stored(self.zero_points).reshape(self.shape[0], -1)[rows]
            middle = unpack(packed, self.bits, num_blocks)[..., None].astype(np.float32)
        scales = scales.reshape(num_rows, num_blocks, 1).astype(np.float32)
        return ((codes - middle) * scales).reshape(num_rows, -1)[:, :columns]


def stored_weights(graph: StagedGraph) -> dict[str, tuple[StoredWeight, ...]]:
    """Return a graph's weights by their names, constants of the graph itself left out.

    A table in blocks that is looked up and multiplied with is there twice: each has own scales.

    Raises:
        ArtifactError: a node lacks what it needs to tell how its weight is stored.
    """
    try:
        return _stored_weights(graph)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{graph.path}: not a graph of this exporter ({error!r}); export again"
        ) from error


def _stored_weights(graph: StagedGraph) -> dict[str, tuple[StoredWeight, ...]]:
    found: dict[str, tuple[StoredWeight, ...]] = {}
    for node in graph.graph:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            weight = _blocks(node)
            found[weight.name] = (*found.get(weight.name, ()), weight)
        elif node.op_type == "MatMul" and (value := node.inputs[1]) and value.is_initializer():
            found[str(value.name)] = (_floats(value, is_transposed=True),)
    parts = {part for ways in found.values() for weight in ways for part in weight.parts}
    for name, value in graph.graph.initializers.items():
        if "." in name and name not in parts:
            found[name] = (_floats(value),)
    return found


def _tensor(value: ir.Value | None) -> ir.TensorProtocol:
    """Return an initializer's tensor.

    Raises:
        ValueError: the value is none.
    """
    if value is None or value.const_value is None:
        raise ValueError(f"{value.name if value else 'an input'} is no initializer")
    return value.const_value


def _floats(value: ir.Value, *, is_transposed: bool = False) -> StoredWeight:
    tensor = _tensor(value)
    shape = tuple(tensor.shape.numpy())
    form = tensor.dtype.numpy().name
    return StoredWeight(
        str(value.name), shape[::-1] if is_transposed else shape, form, is_transposed
    )


def _blocks(node: ir.Node) -> StoredWeight:
    """Return the weight that a node reads in blocks, whose scales are a later input of it."""
    is_table = node.op_type == "GatherBlockQuantized"
    bits, block_size = (node.attributes[name].as_int() for name in ("bits", "block_size"))
    names = [str(value.name) if value is not None else "" for value in node.inputs]
    names += [""] * (4 - len(names))
    codes = _tensor(node.inputs[0 if is_table else 1])
    held = tuple(codes.shape.numpy())
    shape = (
        (held[0], held[1] * block_size)
        if is_table
        else (node.attributes["N"].as_int(), node.attributes["K"].as_int())
    )
    kind = _tensor(node.inputs[2]).dtype.numpy().name
    form = f"{bits} bits in blocks of {block_size}, {kind} scales"
    return StoredWeight(
        str(codes.name),
        shape,
        f"{form}, zero points" if names[3] else form,
        bits=bits,
        block_size=block_size,
        scales=names[2],
        zero_points=names[3],
    )
