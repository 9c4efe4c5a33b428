"""Operators of the shipped graphs on every provider, against their plain forms.

Each runs as a graph of one node.

The nodes are those of the embedded model's graphs, and their inputs are what reaches them when the
graph runs. Fused operators are compared with exporter/model/ops.py, standard ones with onnx's
reference evaluator, both in float32. No node may fall back to the CPU, but for those that a
provider has no kernel for, which are named here.
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

from voxtral_onnx.exporter.model import ops
from voxtral_onnx.manifest import GraphSpec, Manifest

OPERATORS = (  # noqa: SIM905
    "Add ArgMax Cast Clip Concat Conv Div Equal Exp Gather GatherBlockQuantized GatherElements "
    "Gelu Gemm Greater GroupQueryAttention Log MatMul MatMulNBits Max Mul QuickGelu ReduceSum "
    "Reshape RotaryEmbedding Shape SimplifiedLayerNormalization SkipSimplifiedLayerNormalization "
    "Slice Squeeze Sub Transpose Unsqueeze Where"
).split()
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu), "webgpu")
# Of int64
WITHOUT_KERNEL: dict[str, set[str]] = {"cpu": set(), "cuda": set(), "webgpu": {"Squeeze"}}
FLOAT16_ERROR = 5e-3  # relative, L2: rounding to 11 bits; WebGPU also adds in float16, up to 3.1e-3
FLOAT32_ERROR = 2e-5  # sums in another order
INT8_ERROR = 1.5e-2  # activations in 8 bits for each block, as MatMulNBits at accuracy level 4
# Rows of the caches with those of the call, four a token in the encoder
FED_TOKENS = 3
WRITTEN = 20
CAPACITY = 40


@dataclass(frozen=True)
class Node:
    """One node, what reaches it, and the types around it."""

    proto: onnx.NodeProto
    inputs: tuple[np.ndarray | None, ...]
    constants: tuple[bool, ...]  # which of them are weights
    outputs: tuple[np.ndarray, ...]  # of the whole graph on the CPU, for their types and shapes

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
def nodes(tiny_artifact):
    """Nodes by operator, each kind once: attributes, types, ranks, and the shapes of weights."""
    manifest = Manifest.read(tiny_artifact)
    found: dict[str, dict[Any, Node]] = {}
    for graph in manifest.graphs():
        for node in _nodes(tiny_artifact, graph):
            attributes = tuple(sorted(a.SerializeToString() for a in node.proto.attribute))
            inputs = tuple(
                value
                if value is None
                else (str(value.dtype), value.ndim, value.shape if constant else ())
                for value, constant in zip(node.inputs, node.constants, strict=True)
            )
            found.setdefault(node.proto.op_type, {}).setdefault((attributes, inputs), node)
    return {operator: list(kinds.values()) for operator, kinds in found.items()}


def _nodes(folder, graph: GraphSpec) -> Iterator[Node]:
    """All nodes of a graph with the values that reach them when it runs on the CPU."""
    model = onnx.load(folder / graph.path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fixed = {
        *constants,
        *(node.output[0] for node in model.graph.node if node.op_type == "Constant"),
    }
    feeds = _feeds(graph, np.random.default_rng(0))
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
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
    for node in model.graph.node:
        if node.op_type != "Constant":
            yield Node(
                node,
                tuple(values[name] if name else None for name in node.input),
                tuple(name in fixed for name in node.input),
                tuple(values[name] for name in node.output if name),
            )


def _feeds(graph: GraphSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A call of a few tokens behind a cache that holds some rows."""
    sizes = {
        "batch": 1,
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
                values = np.full(shape, WRITTEN - 1)
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
            }
            return list(ops.group_query_attention(*inputs, **options))
        case "QuickGelu":
            return [ops.silu(*inputs)]
        case "GatherElements":  # onnx's evaluator takes no fewer indices than values
            return [torch.gather(inputs[0], attributes["axis"], inputs[1])]
    return None


@cache
def device_of(name: str):
    return open_or_skip(name)


def test_the_matrix_has_every_operator_of_the_shipped_graphs(tiny_artifact, nodes):
    manifest = Manifest.read(tiny_artifact)
    used = {operator for graph in manifest.graphs() for operator in graph.operators} - {"Constant"}
    assert used == set(OPERATORS) == nodes.keys()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(operator, device, nodes):
    runs_on, refused = device_of(device), 0
    for node in nodes[operator]:
        if device == "cuda" and operator == "GroupQueryAttention" and not node.is_float16:
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
            if name.startswith("present."):  # what stands behind the new rows is nobody's
                value, wanted = value[:, :, :WRITTEN], wanted[:, :, :WRITTEN]
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
