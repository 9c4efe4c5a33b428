"""An artifact's graph, as the exporter looks for weights in it."""

from __future__ import annotations

import struct
from pathlib import Path

import onnx
from onnx import helper

from voxtral_onnx.exporter.checkpoint.external_data import read_initializers, read_locations
from voxtral_onnx.manifest import GraphSpec

SPEC = GraphSpec("onnx/a.onnx", (), (), ("onnx/a.onnx_data",), 0, {})
DATA = struct.pack("<8f", *range(8))


def initializer(
    name: str = "w", dims: tuple[int, ...] = (4,), kind: int = onnx.TensorProto.FLOAT, **where: str
) -> onnx.TensorProto:
    """Return one whose values are the last of DATA, unless it says otherwise."""
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in ({"location": "a.onnx_data", "offset": "16", "length": "16"} | where).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(*tensors: onnx.TensorProto, nodes=()) -> bytes:
    """Return a file."""
    made = helper.make_graph(nodes, "g", [], [], initializer=tensors)
    return helper.make_model(made).SerializeToString()


def seeds() -> dict[str, bytes]:
    """Return graphs with weights in a file of their own, and with constants."""
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "inner", [], [])
    constant = helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
    ]
    half = initializer("h", (2, 4), onnx.TensorProto.FLOAT16, offset="0")
    byte = initializer("b", (16,), onnx.TensorProto.UINT8, offset="0", length="16")
    return {"plain": graph(initializer(), half), "nodes": graph(byte, constant, nodes=nodes)}


def parse(data: bytes, folder: Path) -> None:
    """Look for the weights and read them all."""
    (folder / "onnx").mkdir()
    (folder / SPEC.path).write_bytes(data)
    (folder / SPEC.data[0]).write_bytes(DATA)
    found = read_initializers(folder, SPEC)
    assert found.keys() == read_locations(folder, SPEC.path).keys()
    for tensor in found.values():
        tensor.stored_rows() if tensor.shape else tensor.span.read(0, tensor.num_bytes)
