"""Compare the encoder for several streams with the encoder, whose weights and layers it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from ..exporter.checkpoint.external_data import read_locations
from ..manifest import GraphSpec
from ..runtime.device.base import LENGTHS
from .subgraphs import StagedGraph

# Attention of several streams, and the input that tells them apart
ATTENTION = {"GroupQueryAttention": LENGTHS, "PagedAttention": "block_table"}


def batch_differences(
    folder: Path, encoder: StagedGraph, batch: StagedGraph, specs: tuple[GraphSpec, GraphSpec]
) -> Iterator[str]:
    """Yield a line for each way in which the graph for several streams is not the encoder.

    Its weights must be the same bytes, and every node with weights, every attention and every
    rotation must have the same attributes and follow in the same order. Attention reads lengths or
    pages as well; other nodes only reshape, or select the states of the convolutions.
    """
    ours, theirs = (read_locations(folder, spec.path) for spec in specs)
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            yield f"{name} is other bytes than the encoder's"
    nodes, batched = (list(_computing(graph)) for graph in (encoder, batch))
    if len(nodes) != len(batched):
        yield f"{len(batched)} nodes compute, {len(nodes)} in the encoder"
    for node, other in zip(nodes, batched, strict=False):
        if _facts(node) != _facts(other):
            yield f"{other.name} is not the encoder's {node.name}"
    for node in batched:
        needed = ATTENTION.get(node.op_type)
        if needed and all(value is None or value.name != needed for value in node.inputs):
            yield f"{node.name} does not read {needed}"


def _computing(graph: StagedGraph) -> Iterator[ir.Node]:
    """Yield the nodes with weights, and attention and rotation."""
    for node in graph.graph:
        if _weights(node) or node.op_type in (*ATTENTION, "RotaryEmbedding"):
            yield node


def _facts(node: ir.Node) -> tuple:
    attributes = {name: str(attribute.value) for name, attribute in node.attributes.items()}
    kind = "attention" if node.op_type in ATTENTION else node.op_type
    return kind, node.domain, attributes, _weights(node)


def _weights(node: ir.Node) -> list[str]:
    return [
        str(value.name)
        for value in node.inputs
        if value is not None and isinstance(value.const_value, ir.ExternalTensor)
    ]
