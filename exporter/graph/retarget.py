"""Change a graph to another precision without tracing it again.

Nodes that have weights are exchanged and types are changed. The result is byte for byte the graph
that tracing gives, whichever precision it was made from.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..model import linear, ops
from .families.spec import GraphPlan
from .trace import TracedGraph, fake_module, finish

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
MICROSOFT = "com.microsoft"
# float32 in every precision, unlike the nodes that read and write them
WIDE_INPUT = "input_features"
WIDE_OUTPUT = "logits"


def retarget(model: ir.Model, plan: GraphPlan) -> TracedGraph | None:
    """Change a graph of another precision, in place, to the planned one.

    Return None where a quantised table would become a float one: other nodes read that.
    """
    # Look for a quantised table
    module, graph = fake_module(plan), model.graph
    for name, part in module.named_modules():
        if (
            isinstance(part, linear.TiedEmbedding)
            and graph.initializers[f"{name}.weight"].dtype not in FLOATS
        ):
            return None

    # Exchange the nodes with weights
    for name, part in module.named_modules():
        match part:
            case linear.Linear() | linear.QuantizedLinear():
                _exchange_linear(graph, name, part)
            case linear.QuantizedTiedEmbedding():
                _exchange_table(graph, name, part)

    # Change the types
    for name, tensor in module.state_dict().items():
        _placeholder(graph, name, tensor)
    _cast_at_the_ends(
        graph,
        ir.DataType.from_numpy(np.dtype(next(x.dtype for x in plan.inputs if x.name == "cos"))),
    )
    RemoveUnusedNodesPass()(model)
    return finish(plan, module, model)


def _exchange_linear(
    graph: ir.Graph, name: str, part: linear.Linear | linear.QuantizedLinear
) -> None:
    (node,) = graph.initializers[f"{name}.weight"].consumers()
    old = [node]
    if node.op_type == "MatMul" and part.bias is not None:
        old += node.outputs[0].consumers()
    if isinstance(part, linear.QuantizedLinear):
        new = [_matmul_nbits(graph, name, part, part.in_features, node.inputs[0])]
    else:
        new = [
            ir.node("MatMul", [node.inputs[0], _placeholder(graph, f"{name}.weight", part.weight)])
        ]
        if part.bias is not None:
            new.append(ir.node("Add", [new[0].outputs[0], graph.initializers[f"{name}.bias"]]))
    _replace(graph, old, new)


def _exchange_table(graph: ir.Graph, name: str, part: linear.QuantizedTiedEmbedding) -> None:
    readers = graph.initializers[f"{name}.weight"].consumers()
    gather, head = sorted(readers, key=lambda node: "Gather" not in node.op_type)

    # Find the nodes of the old table
    ids, hidden = gather.inputs[1], head.inputs[0]
    assert hidden is not None
    if head.op_type == "Gemm":  # stands between two Reshapes, because it takes matrices only
        join = hidden.producer()
        assert join is not None
        hidden = join.inputs[0]
        old_gather = [gather]
        old_head = [join, head, *head.outputs[0].consumers()]
    else:
        old_gather, old_head = [gather, *gather.outputs[0].consumers()], [head]

    # Put the head and the gather of the new one in their place
    new_head = _matmul_nbits(graph, name, part, part.hidden_size, hidden)
    weight = graph.initializers[f"{name}.weight"]
    scales = _placeholder(graph, f"{name}.gather_scales", part.gather_scales)
    attributes = ops.gather_block_quantized_attributes(part.rule.bits, part.rule.block_size)
    rows = ir.node("GatherBlockQuantized", [weight, ids, scales], attributes, domain=MICROSOFT)
    target = np.array([0, 0, part.hidden_size], np.int64)
    shape = ir.Value(name=f"{name}.target", const_value=ir.tensor(target, name=f"{name}.target"))
    graph.register_initializer(shape)
    _replace(
        graph, old_gather, [rows, ir.node("Reshape", [rows.outputs[0], shape], {"allowzero": 0})]
    )
    _replace(graph, old_head, [new_head])


def _matmul_nbits(
    graph: ir.Graph,
    name: str,
    part: linear.QuantizedLinear | linear.QuantizedTiedEmbedding,
    in_features: int,
    x: ir.Value | None,
) -> ir.Node:
    inputs = [x]
    for attribute in ("weight", "scales", "zero_points"):
        tensor = getattr(part, attribute, None)
        inputs.append(
            None if tensor is None else _placeholder(graph, f"{name}.{attribute}", tensor)
        )
    if getattr(part, "bias", None) is not None:
        inputs += [None, graph.initializers[f"{name}.bias"]]
    while inputs[-1] is None:
        inputs.pop()
    rule, out_features = part.rule, len(part.weight)
    attributes = ops.matmul_nbits_attributes(
        out_features, in_features, rule.bits, rule.block_size, part.accuracy_level
    )
    return ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT)


def _placeholder(graph: ir.Graph, name: str, like: torch.Tensor) -> ir.Value:
    """Add or change the initializer of that name, with the type and shape of `like`, and return it.

    Its values are bound later.
    """
    dtype = ir.DataType.from_numpy(np.dtype(str(like.dtype).removeprefix("torch.")))
    shape = ir.Shape(tuple(like.shape))
    value = graph.initializers.get(name)
    if value is None:
        value = ir.Value(name=name)
    value.shape, value.type = shape, ir.TensorType(dtype)
    value.const_value = ir.ExternalTensor("", 0, 0, dtype, shape=shape, name=name)
    graph.initializers.add(value)
    return value


def _replace(graph: ir.Graph, old: list[ir.Node], new: list[ir.Node]) -> None:
    ir.convenience.replace_nodes_and_values(
        graph, old[-1], old, new, old[-1].outputs, new[-1].outputs
    )


def _cast_at_the_ends(graph: ir.Graph, dtype: ir.DataType) -> None:
    """Add or remove the casts between a float16 graph and its input and output in float32."""
    ends = {value.name: value for value in (*graph.inputs, *graph.outputs)}

    # Before the input's reader
    if (wide := ends.get(WIDE_INPUT)) is not None:
        (reader,) = wide.consumers()
        if reader.op_type == "Cast":
            reader.outputs[0].replace_all_uses_with(wide)
            graph.remove(reader, safe=True)
            (reader,) = wide.consumers()
        if dtype == ir.DataType.FLOAT16:
            cast = ir.node("Cast", [wide], {"to": dtype})
            wide.replace_all_uses_with(cast.outputs[0])
            cast.replace_input_with(0, wide)
            graph.insert_before(reader, cast)

    # Behind the output's writer
    if (wide := ends.get(WIDE_OUTPUT)) is not None:
        maker = wide.producer()
        assert maker is not None
        if maker.op_type == "Cast":
            inner = maker.inputs[0]
            assert inner is not None
            wide.replace_all_uses_with(inner, replace_graph_outputs=True)
            graph.remove(maker, safe=True)
            maker, wide = inner.producer(), inner
            assert maker is not None
        if dtype == ir.DataType.FLOAT16:
            cast = ir.node("Cast", [wide], {"to": ir.DataType.FLOAT})
            wide.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
            cast.replace_input_with(0, wide)
            graph.insert_after(maker, cast)
            wide.name, wide.shape, wide.type = f"narrow_{WIDE_OUTPUT}", None, None
            wide = cast.outputs[0]
        wide.name = WIDE_OUTPUT
