"""Three kinds of batched attention that encoder_rows.py puts into an encoder graph and measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from voxtral_onnx.manifest import CacheSpec

PAGE = 256  # rows in a block of PagedAttention's caches
OPSET = 24  # the first with TensorScatter
Values = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of attention: the replacement of a node, the shape of its cache, and its inputs."""

    replace: Callable[[ir.Node, CacheSpec, dict[str, ir.Value]], list[ir.Node]]
    cache_shape: Callable[[CacheSpec, int], tuple[int, ...]]  # by the number of streams
    inputs: Callable[[CacheSpec, int], Values]  # those that place the new frames, by the same
    fill: Callable[[np.ndarray, np.ndarray], None]  # cache, history [rows, heads, frames, head_dim]


def replace_all(encoder: ir.Model, kind: Kind, spec: CacheSpec, rows: int) -> bytes:
    """Return an encoder graph with `kind` of attention, for a batch of `rows` streams."""
    # Inputs and outputs of a batch, and the kind's own inputs
    graph = encoder.graph
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None and value.shape.rank() and value.shape[0] == 1:
            value.shape = ir.Shape(["batch", *value.shape[1:]])
    extra = {
        name: ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        for name, array in kind.inputs(spec, rows).items()
    }
    graph.inputs.extend(extra.values())

    # Attention nodes
    for node in [node for node in graph if node.op_type == "GroupQueryAttention"]:
        nodes = kind.replace(node, spec, extra)
        outputs = [
            *nodes[-1].outputs,
            *(output for made in nodes for output in made.outputs if output.name in PRESENT),
        ]
        for value, cache in zip(
            (*node.inputs[3:5], *node.outputs[1:]), (*node.inputs[3:5],) * 2, strict=True
        ):
            assert value is not None and cache is not None
            value.shape = ir.Shape(kind.cache_shape(spec, rows))
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, outputs)

    # Reshapes to a batch of one, and inputs that only GroupQueryAttention had
    for name in ("seqlens_k", "total_sequence_length"):
        graph.inputs.remove(next(value for value in graph.inputs if value.name == name))
    for node in graph:
        shape = node.inputs[1] if node.op_type == "Reshape" else None
        if shape is not None and (target := ir.convenience.get_const_tensor(shape)) is not None:
            values = target.numpy().copy()
            values[0] = 0 if len(values) == 3 and values[0] == 1 else values[0]
            node.replace_input_with(1, constant(graph, f"{node.name}_rows", values))
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
    graph.opset_imports[""] = OPSET
    return ir.to_proto(encoder).SerializeToString()


PRESENT = ("present_key", "present_value")


def constant(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    """Return a new initializer of the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(values, name=name))
    value.shape = ir.Shape(values.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(values.dtype))
    graph.register_initializer(value)
    return value


class Builder:
    """A builder of the nodes that replace one node, and are named after it."""

    def __init__(self, node: ir.Node):
        assert node.graph is not None
        self.graph, self.name, self.nodes = node.graph, node.name, []

    def add(
        self,
        operator: str,
        inputs: list[ir.Value | None],
        outputs: int = 1,
        domain: str = "",
        **attributes,
    ) -> Any:
        """Add a node and return its output, or its outputs where it has several."""
        converted = [
            ir.convenience.convert_attribute(name, value) for name, value in attributes.items()
        ]
        node = ir.Node(
            domain,
            operator,
            inputs,
            converted,
            num_outputs=outputs,
            name=f"{self.name}_{len(self.nodes)}",
        )
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}_{index}"
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else node.outputs

    def reshape(self, value: ir.Value, *target: int) -> ir.Value:
        """Add a Reshape to a constant shape and return its output."""
        shape = constant(
            self.graph, f"{self.name}_{len(self.nodes)}_shape", np.array(target, np.int64)
        )
        return self.add("Reshape", [value, shape])


def read(node: ir.Node) -> list[ir.Value]:
    """Return an attention node's query, key, value, past key and past value."""
    return [value for value in node.inputs[:5] if value is not None]


def with_ring(node: ir.Node, spec: CacheSpec, extra: dict[str, ir.Value]) -> list[ir.Node]:
    """Return nodes that attend by TensorScatter into a ring and ONNX's Attention with a mask."""
    build, heads = Builder(node), spec.num_key_value_heads
    query, key, value = (
        build.add("Transpose", [build.reshape(x, 0, 0, heads, spec.head_dim)], perm=[0, 2, 1, 3])
        for x in read(node)[:3]
    )
    present = []
    for past, new, name in zip(read(node)[3:], (key, value), PRESENT, strict=True):
        inputs = [past, new, extra["write_indices"]]
        present.append(build.add("TensorScatter", inputs, axis=2, mode="circular"))
        present[-1].name = name
    scale = spec.head_dim**-0.5
    out = build.add("Attention", [query, *present, extra["mask"]], scale=scale)
    build.reshape(build.add("Transpose", [out], perm=[0, 2, 1, 3]), 0, 0, heads * spec.head_dim)
    return build.nodes


def ring_inputs(spec: CacheSpec, rows: int) -> Values:
    """Return the ring's inputs, with every stream at another slot and all windows full."""
    index = np.arange(rows, dtype=np.int64) * spec.rows_per_token % ring_capacity(spec)
    return {"write_indices": index, "mask": ring_mask(spec, index)}


def ring_capacity(spec: CacheSpec) -> int:
    """Return the frames of a ring: those that a call attends to or writes."""
    return spec.keep + spec.rows_per_token


def ring_mask(spec: CacheSpec, index: np.ndarray) -> np.ndarray:
    """Return the mask of keys that each new frame attends to: bool [rows, 1, frames, capacity]."""
    slot, new = np.arange(ring_capacity(spec)), np.arange(spec.rows_per_token)
    age = (index[:, None, None] + new[:, None] - slot) % ring_capacity(spec)  # 0: the frame itself
    # Keys that the same call writes for later frames
    is_later = age >= ring_capacity(spec) - (spec.rows_per_token - 1 - new[:, None])
    return (~is_later & (age < spec.window))[:, None]


def fill_ring(cache: np.ndarray, history: np.ndarray) -> None:
    """Write each stream's history into the ring, before its slot."""
    capacity = cache.shape[2]
    frames = history.shape[2]
    for row, (target, source) in enumerate(zip(cache, history, strict=True)):
        at = (row * (capacity - frames) - frames + np.arange(frames)) % capacity
        target[:, at] = source


def with_scatter(node: ir.Node, spec: CacheSpec, extra: dict[str, ir.Value]) -> list[ir.Node]:
    """Return nodes that attend by ScatterND into a ring and MultiHeadAttention with a bias.

    The ring's axes are [rows, frames, heads, head_dim].
    """
    build = Builder(node)
    heads = spec.num_key_value_heads
    width = spec.num_key_value_heads * spec.head_dim
    query, *new = read(node)[:3]
    present = []
    for past, rows, name in zip(read(node)[3:], new, PRESENT, strict=True):
        update = build.reshape(rows, 0, 0, heads, spec.head_dim)
        present.append(build.add("ScatterND", [past, extra["slots"], update]))
        present[-1].name = name
    joined = [build.reshape(value, 0, 0, width) for value in present]
    build.add(
        "MultiHeadAttention",
        [query, *joined, None, None, extra["bias"]],
        domain="com.microsoft",
        num_heads=heads,
        scale=spec.head_dim**-0.5,
    )
    return build.nodes


def scatter_inputs(spec: CacheSpec, rows: int) -> Values:
    """Return the inputs of ScatterND's ring: slots to write, and the mask as a bias."""
    ring = ring_inputs(spec, rows)
    slot = (ring["write_indices"][:, None] + np.arange(spec.rows_per_token)) % ring_capacity(spec)
    row = np.broadcast_to(np.arange(rows)[:, None], slot.shape)
    bias = np.where(ring["mask"], 0, -1e4).astype(np.float16)
    return {"slots": np.stack((row, slot), -1), "bias": bias}


def fill_scattered(cache: np.ndarray, history: np.ndarray) -> None:
    """Write each stream's history into ScatterND's ring, before its slot."""
    fill_ring(cache.swapaxes(1, 2), history)


def with_pages(node: ir.Node, spec: CacheSpec, extra: dict[str, ir.Value]) -> list[ir.Node]:
    """Return nodes that attend by PagedAttention, with each stream's cache in blocks of PAGE."""
    build = Builder(node)
    heads = spec.num_key_value_heads
    width = spec.num_key_value_heads * spec.head_dim
    packed = [build.reshape(x, -1, width) for x in read(node)[:3]]
    places = [extra[name] for name in ("cumulative_sequence_length", "past_seqlens", "block_table")]
    out, key, value = build.add(
        "PagedAttention",
        [*packed, *read(node)[3:], *places],
        outputs=3,
        domain="com.microsoft",
        num_heads=heads,
        kv_num_heads=heads,
        scale=spec.head_dim**-0.5,
        local_window_size=spec.window - 1,  # keys before the query's own
    )
    key.name, value.name = PRESENT
    build.reshape(out, -1, spec.rows_per_token, width)
    return build.nodes


def pages(spec: CacheSpec) -> int:
    """Return the number of blocks of one stream."""
    return -(-ring_capacity(spec) // PAGE)


def page_inputs(spec: CacheSpec, rows: int) -> Values:
    """Return PagedAttention's inputs, with each stream's blocks one after the other."""
    return {
        "cumulative_sequence_length": np.arange(rows + 1, dtype=np.int32) * spec.rows_per_token,
        "past_seqlens": np.full(rows, spec.keep, np.int32),
        "block_table": np.arange(rows * pages(spec), dtype=np.int32).reshape(rows, -1),
    }


def fill_pages(cache: np.ndarray, history: np.ndarray) -> None:
    """Write each stream's history into its blocks."""
    rows, heads, frames, head_dim = history.shape
    cache.reshape(rows, -1, heads, head_dim)[:, :frames] = history.swapaxes(1, 2)


KINDS = {
    "TensorScatter, Attention": Kind(
        with_ring,
        lambda spec, rows: (rows, spec.num_key_value_heads, ring_capacity(spec), spec.head_dim),
        ring_inputs,
        fill_ring,
    ),
    "ScatterND, MultiHeadAttention": Kind(
        with_scatter,
        lambda spec, rows: (rows, ring_capacity(spec), spec.num_key_value_heads, spec.head_dim),
        scatter_inputs,
        fill_scattered,
    ),
    "PagedAttention": Kind(
        with_pages,
        lambda spec, rows: (rows * pages(spec), PAGE, spec.num_key_value_heads, spec.head_dim),
        page_inputs,
        fill_pages,
    ),
}
