"""Each clean-up applies where its rule says, and nowhere else."""

import numpy as np
import onnx_ir as ir
import pytest
from conftest import EXACT_RECIPE
from reference import toy

from voxtral_onnx.exporter.graph.families import native
from voxtral_onnx.exporter.graph.passes import PIPELINE, clean
from voxtral_onnx.exporter.graph.passes.constants import fold_constants
from voxtral_onnx.exporter.graph.passes.optional_outputs import drop_optional_outputs
from voxtral_onnx.exporter.graph.passes.packed_codes import type_packed_codes
from voxtral_onnx.exporter.graph.passes.reshapes import make_reshapes_static
from voxtral_onnx.exporter.graph.passes.unused_nodes import remove_unused_nodes
from voxtral_onnx.exporter.graph.trace import _trace_whole
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.quant.recipe import load_recipe


def model_of(nodes, inputs, outputs):
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, opset_imports={"": 23, "com.microsoft": 1}, name="test"
    )
    return ir.Model(graph, ir_version=10)


def value(name, shape, dtype=ir.DataType.FLOAT):
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


@pytest.mark.parametrize(
    ("before", "after", "target"),
    [
        (["batch", "seq", 8, 32], ["batch", "seq", 256], [0, 0, 256]),
        (["batch", "seq", 256], ["batch", "rows", 256], [0, -1, 256]),
        (["batch", "seq", 8], ["seq", "batch", 8], None),  # two axes moved: not a matter of copying
        (["rows", 8], ["batch", "seq", 8], None),
    ],
)
def test_reshapes_become_static(before, after, target):
    data, shape = value("data", before), value("shape", [len(after)], ir.DataType.INT64)
    node = ir.node("Reshape", [data, shape], outputs=[value("out", after)])
    model = model_of([node], [data, shape], node.outputs)
    assert make_reshapes_static(model) == int(target is not None)
    if target is None:
        assert node.inputs[1] is shape
    else:
        assert node.inputs[1] is not None
        constant = ir.convenience.get_const_tensor(node.inputs[1])
        assert constant is not None and constant.numpy().tolist() == target


def test_constant_reshapes_are_left_alone():
    data, target = value("data", ["batch", 8]), ir.tensor(np.array([-1], np.int64), name="target")
    constant = ir.node("Constant", [], {"value": target})
    constant.outputs[0].name = "target"
    node = ir.node("Reshape", [data, constant.outputs[0]], outputs=[value("out", ["n"])])
    assert make_reshapes_static(model_of([constant, node], [data], node.outputs)) == 0


@pytest.mark.parametrize(("row_bytes", "dtype"), [(8, ir.DataType.UINT4), (16, ir.DataType.UINT8)])
def test_codes_of_four_bits_get_their_type(row_bytes, dtype):
    codes, zeros = (
        value(name, [rows, row_bytes], ir.DataType.UINT8)
        for name, rows in (("codes", 64), ("zeros", 2))
    )
    other = value("other", [64, row_bytes], ir.DataType.UINT8)  # gathered as bytes, which it stays
    node = ir.node(
        "DequantizeLinear", [codes, value("scales", [2, 16]), zeros], {"axis": 0, "block_size": 32}
    )
    gather = ir.node("Gather", [other, value("ids", [3], ir.DataType.INT64)], {"axis": 1})
    model = model_of([node, gather], [], [*node.outputs, *gather.outputs])
    assert type_packed_codes(model) == (2 if dtype == ir.DataType.UINT4 else 0)
    assert [(item.dtype, item.shape) for item in (codes, zeros)] == [
        (dtype, (64, 16)),
        (dtype, (2, 16)),
    ]
    assert other.dtype == ir.DataType.UINT8 and other.shape == (64, row_bytes)


def test_unread_optional_outputs_go():
    x, skip, weight = value("x", [1, 4]), value("skip", [1, 4]), value("weight", [4])
    norm = ir.node(
        "SkipSimplifiedLayerNormalization", [x, skip, weight], domain="com.microsoft", num_outputs=4
    )
    last = ir.node(
        "SkipSimplifiedLayerNormalization",
        [x, norm.outputs[3], weight],
        domain="com.microsoft",
        num_outputs=4,
    )
    for number, output in enumerate((*norm.outputs, *last.outputs)):
        output.name = f"v{number}"
    model = model_of([norm, last], [x, skip, weight], [norm.outputs[0], last.outputs[0]])
    assert drop_optional_outputs(model) == 5
    assert [output.name for output in norm.outputs] == ["v0", "", "", "v3"]
    assert [output.name for output in last.outputs] == ["v4"]


def test_folding_and_removing_leave_used_nodes():
    x = value("x", ["n"])
    relu, unread = ir.node("Relu", [x]), ir.node("Neg", [x])
    relu.outputs[0].name, unread.outputs[0].name = "y", "z"
    model = model_of([relu, unread], [x], relu.outputs)
    assert fold_constants(model) == 0
    assert remove_unused_nodes(model) == 1
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_every_pass_is_counted():
    build = PartFactory("float32", load_recipe(str(EXACT_RECIPE)))
    plan = native.decoder_plan(toy.toy_config(), Tokens(1, 2, 32, 33, 1000), build, "")
    counts = clean(_trace_whole(plan))
    assert list(counts) == [rule.__name__ for rule in PIPELINE]
    assert counts["drop_optional_outputs"] > 0 and counts["strip_debug_info"] > 0
    assert counts["make_reshapes_static"] == 1
