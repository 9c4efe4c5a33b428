"""Rung 1: compare single nodes on onnxruntime with the same computation in PyTorch.

One node of each kind in the artifact's graphs is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..config import TransformerConfig
from ..errors import ArtifactError, DeviceError
from ..exporter.model import attention, ops
from ..manifest import Manifest
from ..runtime.device.base import Device
from ..runtime.device.cpu import Cpu
from .artifact_model import ArtifactModel
from .stage_parity import relative_error
from .subgraphs import StagedGraph, StageSession, make_exact

ROWS = 5  # rows of an input
WEIGHT_ROWS = 8192  # rows of a quantised weight that are dequantised at a time
BEYOND_WINDOW = 8  # rows of a cache beyond the window, so that a window of wrong size shows


@dataclass(frozen=True, slots=True)
class OperatorError:
    """The error of one kind of node on one device."""

    name: str  # graph, operator, and the shape or number of heads that tells it from others
    device: str
    error: float  # relative, L2


def probe_operators(
    model: ArtifactModel,
    manifest: Manifest,
    devices: Sequence[Device],
    on_refusal: Callable[[Device, DeviceError], None],
) -> Iterator[OperatorError]:
    """Yield the errors of one node for each operator, attributes and shape of weights.

    Nodes run in float32 on the CPU, and as shipped on other devices.

    Args:
        model: the artifact's graphs and weights.
        manifest: the artifact's manifest.
        devices: devices to run on.
        on_refusal: called with a device that has no kernel for a node, and the error; it may remove
            the device from `devices`.
    """
    for graph, stack in (
        (model.encoder, manifest.config.encoder),
        (model.decoder, manifest.config.decoder),
    ):
        seen = set()
        for node in graph.graph:
            if (signature := _signature(node)) is None or signature in seen:
                continue
            seen.add(signature)
            feeds, expected = _Inputs(graph, node, stack).example()
            for device in tuple(devices):
                try:
                    outputs = (session := _load(graph, node, device)).call(feeds)
                except DeviceError as error:
                    on_refusal(device, error)
                    continue
                got = [outputs[tensor.name] for tensor in session.outputs]
                error = max(map(relative_error, got, [value.numpy() for value in expected]))
                role = "encoder" if graph.is_encoder else "decoder"
                yield OperatorError(f"{role}: {signature[0]}", device.name, error)


OPERATORS = {
    "MatMulNBits",
    "GatherBlockQuantized",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "RotaryEmbedding",
    "GroupQueryAttention",
    "QuickGelu",
    "Gelu",
    "Conv",
    "MatMul",
    "Gemm",
}


def _signature(node: ir.Node) -> tuple | None:
    if node.op_type not in OPERATORS:
        return None
    weights = [value.const_value for value in node.inputs if value is not None]
    shapes = [tuple(tensor.shape.numpy()) for tensor in weights if tensor is not None]
    attributes = tuple(
        sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())
    )
    size = "x".join(map(str, max(shapes, key=len))) if shapes else ""
    kernel = node.attributes.get("num_heads")
    label = size or (f"{kernel.as_int()} heads" if kernel else "")
    return f"{node.op_type} {label}".strip(), attributes, tuple(shapes)


def _is_weight(value: ir.Value) -> bool:
    return value.const_value is not None


def _load(graph: StagedGraph, node: ir.Node, device: Device) -> StageSession:
    inputs = [value for value in node.inputs if value is not None and not _is_weight(value)]
    outputs = [value for value in node.outputs if value.name]
    cut = ir.convenience.extract(graph.graph, list(dict.fromkeys(inputs)), outputs)
    for value in (*cut.inputs, *cut.outputs):
        if value.dtype is None:
            value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(graph.dtype)))
    if isinstance(device, Cpu):
        make_exact(cut)
    return StageSession(graph.path, cut, device)


class _Inputs:
    """The random inputs of one node, and the outputs that PyTorch computes from them."""

    def __init__(self, graph: StagedGraph, node: ir.Node, stack: TransformerConfig):
        self.graph, self.node, self.stack = graph, node, stack
        self.rng = np.random.default_rng(0)
        self.feeds: dict[str, np.ndarray] = {}

    def example(self) -> tuple[dict[str, np.ndarray], list[Tensor]]:
        """Return feeds by the names of the node's inputs, and the expected outputs."""
        with torch.no_grad():
            return self.feeds, self._compute()

    def _compute(self) -> list[Tensor]:
        node, stack = self.node, self.stack
        match node.op_type:
            # Quantised weights
            case "MatMulNBits":
                x = self._draw(0, 1, ROWS, self._integer("K"))
                return [
                    torch.cat(
                        [
                            self._product(x, start)
                            for start in range(0, self._integer("N"), WEIGHT_ROWS)
                        ],
                        -1,
                    )
                ]
            case "GatherBlockQuantized":
                ids = self._draw_ids(1, len(self.graph.stored(str(self._input(0).name))))
                scales = self._weight(2, ids.numpy())
                options = {"bits": self._integer("bits"), "block_size": self._integer("block_size")}
                rows = ops.gather_block_quantized(
                    torch.arange(ROWS)[None], self._weight(0, ids.numpy())[0], scales[0], **options
                )
                return [rows.unflatten(-1, (-1, options["block_size"]))]

            # Norms
            case "SimplifiedLayerNormalization":
                weight = self._weight(1)
                return [
                    ops.rms_norm(self._draw(0, 1, ROWS, len(weight)), weight, stack.rms_norm_eps)
                ]
            case "SkipSimplifiedLayerNormalization":
                weight = self._weight(2)
                x, skip = self._draw(0, 1, ROWS, len(weight)), self._draw(1, 1, ROWS, len(weight))
                outputs = ops.add_rms_norm(x, skip, weight, stack.rms_norm_eps)
                return list(outputs[: sum(bool(value.name) for value in node.outputs)])

            # Attention
            case "RotaryEmbedding":
                heads, half = self._integer("num_heads"), stack.head_dim // 2
                x = self._draw(0, 1, ROWS, heads * stack.head_dim)
                cos, sin = self._draw(1, 1, ROWS, half), self._draw(2, 1, ROWS, half)
                return [ops.rotary_embedding(x, cos, sin, num_heads=heads)]
            case "GroupQueryAttention":
                return self._attention()

            # Activations
            case "QuickGelu":
                return [ops.silu(self._draw(0, 1, ROWS, stack.intermediate_size))]
            case "Gelu":
                return [F.gelu(self._draw(0, 1, ROWS, stack.hidden_size))]

            # Float weights
            case "Conv":
                weight, bias = self._weight(1), self._weight(2)
                stride = node.attributes["strides"].as_ints()[0]
                return [
                    F.conv1d(
                        self._draw(0, 1, weight.shape[1], 2 * ROWS + 1), weight, bias, stride=stride
                    )
                ]
            case "MatMul":
                weight = self._weight(1)
                return [self._draw(0, 1, ROWS, len(weight)) @ weight]
            case _:  # Gemm
                weight = self._weight(1)
                return [F.linear(self._draw(0, ROWS, weight.shape[1]), weight)]

    def _product(self, x: Tensor, start: int) -> Tensor:
        rows = np.arange(start, min(start + WEIGHT_ROWS, self._integer("N")))
        optional = [self._weight(i, rows) if self._has(i) else None for i in (3, 5)]
        return ops.matmul_nbits(
            x,
            self._weight(1, rows),
            self._weight(2, rows),
            *optional,
            in_features=self._integer("K"),
            bits=self._integer("bits"),
            block_size=self._integer("block_size"),
            accuracy_level=0,
        )

    def _attention(self) -> list[Tensor]:
        stack = self.stack
        heads = self._integer("num_heads")
        kv_heads = self._integer("kv_num_heads")
        capacity = stack.sliding_window + BEYOND_WINDOW
        rows = [
            self._draw(i, 1, ROWS, count * stack.head_dim)
            for i, count in enumerate((heads, kv_heads, kv_heads))
        ]
        past = [self._draw(i, 1, kv_heads, capacity, stack.head_dim) for i in (3, 4)]
        at = [
            self._feed(5, np.array([capacity - 1], np.int32)),
            self._feed(6, np.array(capacity, np.int32)),
        ]
        return list(
            attention.group_query_attention(
                *rows, *past, *at, num_heads=heads, window=stack.sliding_window
            )
        )

    def _integer(self, name: str) -> int:
        return self.node.attributes[name].as_int()

    def _has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def _input(self, index: int) -> ir.Value:
        value = self.node.inputs[index]
        if value is None:
            raise ArtifactError(
                f"{self.graph.path}: {self.node.name}: input {index} is missing; export again"
            )
        return value

    def _weight(self, index: int, rows: np.ndarray | slice = slice(None)) -> Tensor:
        values = self.graph.weights(str(self._input(index).name), rows)
        return torch.from_numpy(values if values.dtype == np.uint8 else values.astype(np.float32))

    def _draw(self, index: int, *shape: int) -> Tensor:
        return self._feed(index, self.rng.standard_normal(shape, np.float32))

    def _draw_ids(self, index: int, count: int) -> Tensor:
        return self._feed(index, self.rng.integers(0, count, (1, ROWS)))

    def _feed(self, index: int, values: np.ndarray) -> Tensor:
        return torch.from_numpy(self.feeds.setdefault(str(self._input(index).name), values))
