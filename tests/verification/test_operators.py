"""Operators of the shipped graphs on every provider, against their plain forms.

Each runs as a graph of one node.

The nodes are those of the embedded model's graphs, and their inputs are what reaches them when the
graph runs. Fused operators are compared with exporter/model/ops.py, standard ones with onnx's
reference evaluator, both in float32. No node may fall back to the CPU, but for those that a
provider has no kernel for, which are named here. A graph for several streams only counts where it
is run: by a new enough onnxruntime, on devices that advance several in a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.devices import open_or_skip

from voxtral_onnx.exporter.model import attention, ops
from voxtral_onnx.manifest import GraphSpec, Manifest
from voxtral_onnx.runtime.device.base import LENGTHS, ONLY_ON_CUDA, lacks_lengths

OPERATORS = (  # noqa: SIM905
    "Add ArgMax Cast Clip Concat Conv Div Equal Exp Expand Gather GatherBlockQuantized "
    "GatherElements Gelu Gemm Greater GroupQueryAttention Log MatMul MatMulNBits Max Mul QuickGelu "
    "ReduceSum Reshape RotaryEmbedding Shape SimplifiedLayerNormalization "
    "SkipSimplifiedLayerNormalization Slice Squeeze Sub Transpose Unsqueeze Where"
).split()
# Attention of streams that bring different numbers of rows, apart because fewer devices have it
WITH_LENGTHS = f"GroupQueryAttention {LENGTHS}"
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu), "webgpu")
# Of int64
WITHOUT_KERNEL: dict[str, set[str]] = {"cpu": set(), "cuda": set(), "webgpu": {"Squeeze"}}
# Inputs of GroupQueryAttention
SEQLENS_K, QUERY_SEQLENS = 5, 16
FLOAT16_ERROR = 5e-3  # relative, L2: rounding to 11 bits; WebGPU also adds in float16, up to 3.1e-3
FLOAT32_ERROR = 2e-5  # sums in another order
INT8_ERROR = 1.5e-2  # activations in 8 bits for each block, as MatMulNBits at accuracy level 4
# Rows of the caches with those of the call, four a token in the encoder
FED_TOKENS = 3
WRITTEN = 20
CAPACITY = 200
# Of several streams, the rows before the call and those that it brings: some are padded, one is
# longer than the encoder's window, one begins, one is idle, and one slot is free
STREAMS = ((8, 12), (180, 4), (12, 0), (0, 8), (0, 0))


@dataclass(frozen=True)
class Node:
    """One node, what reaches it, and the types around it."""

    proto: onnx.NodeProto
    inputs: tuple[np.ndarray | None, ...]
    constants: tuple[bool, ...]  # which of them are weights
    outputs: tuple[np.ndarray, ...]  # of the whole graph on the CPU, for their types and shapes
    several: bool  # only graphs for several streams have it

    @property
    def lengths(self) -> np.ndarray | None:
        """Of attention, how many rows are no padding, by stream; None for all."""
        return self.inputs[QUERY_SEQLENS] if len(self.inputs) > QUERY_SEQLENS else None

    @property
    def name(self) -> str:
        """The operator, with or without lengths."""
        return self.proto.op_type if self.lengths is None else WITH_LENGTHS

    @property
    def is_float16(self) -> bool:
        return any(
            value is not None and value.dtype == np.float16
            for value in (*self.inputs, *self.outputs)
        )

    def model(self) -> bytes:
        """A graph of this node alone."""
        named = [(f"in{i}" if value is not None else "") for i, value in enumerate(self.inputs)]
        proto = onnx.NodeProto()
        proto.CopyFrom(self.proto)
        del proto.input[:]
        proto.input.extend(named)
        weights = [
            numpy_helper.from_array(value, name)
            for name, value, constant in zip(named, self.inputs, self.constants, strict=True)
            if constant and value is not None
        ]
        fed = [_info(name, value) for name, value in self.feeds().items()]
        left = [
            _info(name, value) for name, value in zip(self.output_names, self.outputs, strict=True)
        ]
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph([proto], "node", fed, left, weights)
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    @property
    def output_names(self) -> list[str]:
        return [name for name in self.proto.output if name]

    def feeds(self) -> dict[str, np.ndarray]:
        """The inputs that are no weights."""
        return {
            f"in{i}": value
            for i, (value, constant) in enumerate(zip(self.inputs, self.constants, strict=True))
            if value is not None and not constant
        }


def _info(name: str, value: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
    )


@pytest.fixture(scope="module")
def graphs(tiny_artifact):
    """The graphs that the installed onnxruntime runs, those for several streams last."""
    found = shipped(tiny_artifact)
    return sorted((graph for graph in found if not lacks_lengths(graph)), key=_takes_several)


def shipped(artifact) -> list[GraphSpec]:
    """The graphs that load on the CPU; encoders/test_paged.py runs the other ones on CUDA."""
    found = Manifest.read(artifact).graphs()
    return [graph for graph in found if ONLY_ON_CUDA not in graph.operators]


@pytest.fixture(scope="module")
def nodes(tiny_artifact, graphs):
    """Nodes by name, each kind once: attributes, types, ranks, and the shapes of weights."""
    found: dict[str, dict[Any, Node]] = {}
    for graph in graphs:
        for node in _nodes(tiny_artifact, graph):
            attributes = tuple(sorted(a.SerializeToString() for a in node.proto.attribute))
            inputs = tuple(
                value
                if value is None
                else (str(value.dtype), value.ndim, value.shape if constant else ())
                for value, constant in zip(node.inputs, node.constants, strict=True)
            )
            found.setdefault(node.name, {}).setdefault((attributes, inputs), node)
    return {name: list(kinds.values()) for name, kinds in found.items()}


def _takes_several(graph: GraphSpec) -> bool:
    return any(tensor.name == LENGTHS for tensor in graph.inputs)


def _nodes(folder, graph: GraphSpec) -> Iterator[Node]:
    """All nodes of a graph with the values that reach them when it runs on the CPU."""
    model = onnx.load(folder / graph.path)
    nodes = list(model.graph.node)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fixed = {*constants, *(node.output[0] for node in nodes if node.op_type == "Constant")}
    feeds = _feeds(graph, np.random.default_rng(0))
    names = dict.fromkeys(name for node in nodes for name in node.output if name)
    if _takes_several(graph):
        _zero_padding(model.graph, feeds)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = map(np.asarray, session.run(list(names), feeds))
    values: dict[str, np.ndarray] = {**feeds, **constants, **dict(zip(names, outputs, strict=True))}
    for node in nodes:
        if node.op_type != "Constant":
            yield Node(
                node,
                tuple(values[name] if name else None for name in node.input),
                tuple(name in fixed for name in node.input),
                tuple(values[name] for name in node.output if name),
                _takes_several(graph),
            )


def _zero_padding(graph: onnx.GraphProto, feeds: dict[str, np.ndarray]) -> None:
    """Make the attentions' outputs of padding 0 for the nodes behind.

    What a kernel leaves there is any memory, often NaN, of which no node's output can be compared.
    """
    is_row = np.arange(feeds["cos"].shape[1]) < feeds[LENGTHS][:, None]
    zero = np.zeros((), feeds["cos"].dtype)
    graph.initializer.append(numpy_helper.from_array(is_row[..., None], "is_row"))
    graph.initializer.append(numpy_helper.from_array(zero, "zero"))
    nodes = list[onnx.NodeProto]()
    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        nodes.append(node)
        if node.op_type == "GroupQueryAttention":
            output, node.output[0] = node.output[0], f"{node.output[0]}_with_padding"
            nodes.append(helper.make_node("Where", ["is_row", node.output[0], "zero"], [output]))
    del graph.node[:]
    graph.node.extend(nodes)


def _feeds(graph: GraphSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A call of a few tokens behind a cache that holds some rows, or of several streams."""
    several = _takes_several(graph)
    held, new = np.array(STREAMS if several else [(WRITTEN, 0)]).T
    sizes = {
        "batch": len(held),
        "capacity": CAPACITY,
        "seq": FED_TOKENS,
        "chunk": FED_TOKENS,
        "samples": 4000,
    }
    feeds = {}
    for tensor in graph.inputs:
        shape = [_size(axis, sizes) for axis in tensor.shape]
        match tensor.name:
            case "input_ids":
                values = rng.integers(0, 3000, shape)
            case "num_delay_tokens":
                values = np.full(shape, 6)
            case "seqlens_k":
                values = np.maximum(held + new - 1, 0)
            case "query_seqlens":
                values = new
            case "total_sequence_length":
                values = np.array(CAPACITY)
            case _:
                values = rng.standard_normal(shape)
        feeds[tensor.name] = values.astype(tensor.dtype)
    return feeds


def _size(axis: int | str, sizes: dict[str, int]) -> int:
    if isinstance(axis, int):
        return axis
    factor, _, name = axis.rpartition("*")
    return int(factor or 1) * sizes[name]


def expected(node: Node) -> list[np.ndarray]:
    """What the plain form makes of the node's inputs, in float32."""
    wide = [
        v.astype(np.float32) if v is not None and v.dtype == np.float16 else v for v in node.inputs
    ]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.proto.attribute}
    tensors = [None if value is None else torch.from_numpy(np.array(value)) for value in wide]
    with torch.no_grad():
        outputs = _fused(node.proto.op_type, tensors, attributes)
    if outputs is not None:
        return [output.numpy() for output in outputs[: len(node.outputs)]]
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    for attribute in proto.attribute:
        if (
            node.proto.op_type == "Cast"
            and attribute.name == "to"
            and attribute.i == TensorProto.FLOAT16
        ):
            attribute.i = TensorProto.FLOAT
    feeds = {
        name: value for name, value in zip(proto.input, wide, strict=True) if value is not None
    }
    opset = [helper.make_opsetid("", 23)]
    infos = [_info(name, value) for name, value in feeds.items()]
    left = [helper.make_empty_tensor_value_info(name) for name in node.output_names]
    graph = helper.make_graph([proto], "node", infos, left)
    return [
        np.asarray(v)
        for v in ReferenceEvaluator(helper.make_model(graph, opset_imports=opset)).run(None, feeds)
    ]


def _fused(
    operator: str, inputs: list[Any], attributes: dict[str, Any]
) -> list[torch.Tensor] | None:
    """By exporter/model/ops.py; None for what onnx's evaluator computes."""
    match operator:
        case "MatMulNBits":
            x, weight, scales, zero_points, _, bias = [*inputs, None, None, None][:6]
            options = {"in_features": attributes["K"], "accuracy_level": 0}
            options |= {name: attributes[name] for name in ("bits", "block_size")}
            return [ops.matmul_nbits(x, weight, scales, zero_points, bias, **options)]
        case "GatherBlockQuantized":
            weight, ids, scales = inputs
            options = {name: attributes[name] for name in ("bits", "block_size")}
            rows = ops.gather_block_quantized(ids, weight, scales, **options)
            return [rows.unflatten(-1, (-1, attributes["block_size"]))]
        case "SimplifiedLayerNormalization":
            x, weight = inputs
            return [ops.rms_norm(x, weight, attributes["epsilon"])]
        case "SkipSimplifiedLayerNormalization":
            x, skip, weight = inputs
            return list(ops.add_rms_norm(x, skip, weight, attributes["epsilon"]))
        case "RotaryEmbedding":
            return [ops.rotary_embedding(*inputs[:3], num_heads=attributes["num_heads"])]
        case "GroupQueryAttention":
            options = {
                "num_heads": attributes["num_heads"],
                "window": attributes["local_window_size"],
                "query_seqlens": inputs[QUERY_SEQLENS] if len(inputs) > QUERY_SEQLENS else None,
            }
            return list(attention.group_query_attention(*inputs[:7], **options))
        case "QuickGelu":
            return [ops.silu(*inputs)]
        case "GatherElements":  # onnx's evaluator takes no fewer indices than values
            return [torch.gather(inputs[0], attributes["axis"], inputs[1])]
    return None


@cache
def device_of(name: str):
    return open_or_skip(name)


def _defined(node: Node, name: str, value: np.ndarray) -> np.ndarray:
    """Return what an output defines: of attention no padding, and nothing behind the new rows."""
    if node.proto.op_type != "GroupQueryAttention":
        return value
    if name.startswith("present."):
        last, rows = node.inputs[SEQLENS_K], value.swapaxes(1, 2)
        assert last is not None
        counts = last + 1
    else:
        counts, rows = node.lengths, value
    if counts is None:
        return value
    return rows[np.arange(rows.shape[1]) < counts[:, None]]


def test_the_matrix_has_every_operator_of_the_shipped_graphs(tiny_artifact, graphs, nodes):
    def used(graphs):
        return {operator for graph in graphs for operator in graph.operators} - {"Constant"}

    assert used(shipped(tiny_artifact)) == set(OPERATORS)
    several = {WITH_LENGTHS} if any(map(_takes_several, graphs)) else set()
    assert used(graphs) | several == nodes.keys()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", [*OPERATORS, WITH_LENGTHS])
def test_operator(operator, device, nodes, tiny_artifact):
    runs_on, refused = device_of(device), 0
    reasons = filter(None, map(lacks_lengths, shipped(tiny_artifact)))
    if operator not in nodes and (reason := next(reasons, None)):
        pytest.skip(reason)
    kinds = [node for node in nodes[operator] if runs_on.supports_batching or not node.several]
    if not kinds:
        pytest.skip(f"{runs_on.name} advances one stream a call")
    for node in kinds:
        if device == "cuda" and node.proto.op_type == "GroupQueryAttention" and not node.is_float16:
            continue  # such precisions are refused there
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = runs_on.open(node.model(), options, captures=False)
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            if "fallback to CPU EP has been explicitly disabled" not in str(error):
                raise
            refused += 1
            continue
        outputs = [np.asarray(value) for value in session.run(None, node.feeds())]
        for name, value, wanted, like in zip(
            node.output_names, outputs, expected(node), node.outputs, strict=True
        ):
            assert (value.dtype, value.shape) == (like.dtype, wanted.shape), name
            value, wanted = (_defined(node, name, array) for array in (value, wanted))
            if value.dtype.kind != "f":
                assert np.array_equal(value, wanted), name
                continue
            value, wanted = value.astype(np.float64), wanted.astype(np.float64)
            error = np.linalg.norm(value - wanted) / (np.linalg.norm(wanted) + 1e-12)
            limit = (
                INT8_ERROR
                if operator == "MatMulNBits"
                else FLOAT16_ERROR
                if node.is_float16
                else FLOAT32_ERROR
            )
            assert error < limit, f"{operator} {name} on {device}: {error}"
    assert bool(refused) == (operator in WITHOUT_KERNEL[device])
