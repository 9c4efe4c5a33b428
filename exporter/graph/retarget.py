"""Change a graph to another precision without tracing it again.

Nodes that have weights are exchanged and types are changed. The result is byte for byte the graph
that tracing gives, whichever precision it was made from.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..model.attributes import gather_block_quantized_attributes, matmul_nbits_attributes
from ..model.parameters import Kind, Parameter, Part, named_parameters
from .families.spec import GraphPlan
from .unbound import UnboundGraph, finish, leave_open

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
MICROSOFT = "com.microsoft"
# float32 in every precision, unlike the nodes that read and write them
WIDE_INPUT = "input_features"
WIDE_OUTPUT = "logits"
CACHE = "past_key_values.0.key"  # has the type of activations


def retarget(model: ir.Model, plan: GraphPlan) -> UnboundGraph | None:
    """Change a graph of another precision, in place, to the planned one.

    The type of activations can be changed in native graphs only. Return None where a quantised
    table would become a float one: other nodes read that.
    """
    # Look for a quantised table
    graph = model.graph
    for part in plan.parts.values():
        table = graph.initializers.get(f"{part.name}.weight")
        if part.kind is Kind.TABLE and table is not None and table.dtype not in FLOATS:
            return None

    # Exchange the nodes with weights
    if any(part.rule for part in plan.parts.values()):
        model.opset_imports.setdefault(MICROSOFT, 1)
    for part in plan.parts.values():
        if part.kind in (Kind.LINEAR, Kind.QUANTIZED_LINEAR):
            _exchange_linear(graph, part)
        elif part.kind is Kind.QUANTIZED_TABLE:
            _exchange_table(graph, part)

    # Change the types
    for name, parameter in named_parameters(plan.parts).items():
        _placeholder(graph, name, parameter)
    dtype = ir.DataType.from_numpy(np.dtype(plan.dtype))
    if any(value.name == CACHE and value.dtype != dtype for value in graph.inputs):
        _cast_at_the_ends(graph, dtype)
    RemoveUnusedNodesPass()(model)
    return finish(plan, model)


def _exchange_linear(graph: ir.Graph, part: Part) -> None:
    (node,) = graph.initializers[f"{part.name}.weight"].consumers()
    has_bias = "bias" in part.parameters
    old = [node]
    if node.op_type == "MatMul" and has_bias:
        old += node.outputs[0].consumers()
    if part.kind is Kind.QUANTIZED_LINEAR:
        new = [_matmul_nbits(graph, part, node.inputs[0])]
    else:
        new = [ir.node("MatMul", [node.inputs[0], _placeholder_of(graph, part, "weight")])]
        if has_bias:
            bias = graph.initializers[f"{part.name}.bias"]
            new.append(ir.node("Add", [new[0].outputs[0], bias]))
    _replace(graph, old, new)


def _exchange_table(graph: ir.Graph, part: Part) -> None:
    """Exchange the lookup and the head of a table, as far as the graph has them."""
    for node in list(graph.initializers[f"{part.name}.weight"].consumers()):
        if "Gather" in node.op_type:
            _exchange_lookup(graph, part, node)
        else:
            _exchange_head(graph, part, node)


def _exchange_lookup(graph: ir.Graph, part: Part, gather: ir.Node) -> None:
    old = [gather] if gather.op_type == "Gather" else [gather, *gather.outputs[0].consumers()]
    assert part.rule is not None
    weight = _placeholder_of(graph, part, "weight")
    scales = _placeholder_of(graph, part, "gather_scales")
    attributes = gather_block_quantized_attributes(part.rule.bits, part.rule.block_size)
    ids = gather.inputs[1]
    assert ids is not None and ids.shape is not None
    rows = ir.node("GatherBlockQuantized", [weight, ids, scales], attributes, domain=MICROSOFT)
    sizes = [size if isinstance(size, int) else 0 for size in ids.shape]  # 0 keeps an axis
    name, target = f"{part.name}.target", np.array([*sizes, part.in_features], np.int64)
    shape = ir.Value(name=name, const_value=ir.tensor(target, name=name))
    graph.register_initializer(shape)
    _replace(graph, old, [rows, ir.node("Reshape", [rows.outputs[0], shape], {"allowzero": 0})])


def _exchange_head(graph: ir.Graph, part: Part, head: ir.Node) -> None:
    old, hidden = [head], head.inputs[0]
    if head.op_type == "Gemm":  # stands between two Reshapes, because it takes matrices only
        join = hidden and hidden.producer()
        assert join is not None
        old, hidden = [join, head, *head.outputs[0].consumers()], join.inputs[0]
    _replace(graph, old, [_matmul_nbits(graph, part, hidden)])


def _matmul_nbits(graph: ir.Graph, part: Part, x: ir.Value | None) -> ir.Node:
    inputs = [
        x,
        *(
            _placeholder_of(graph, part, name) if name in part.parameters else None
            for name in ("weight", "scales", "zero_points")
        ),
    ]
    if "bias" in part.parameters:
        inputs += [None, graph.initializers[f"{part.name}.bias"]]
    while inputs[-1] is None:
        inputs.pop()
    assert part.rule is not None
    attributes = matmul_nbits_attributes(
        part.parameters["weight"].shape[0],
        part.in_features,
        part.rule.bits,
        part.rule.block_size,
        part.accuracy_level,
    )
    return ir.node("MatMulNBits", inputs, attributes, domain=MICROSOFT)


def _placeholder_of(graph: ir.Graph, part: Part, name: str) -> ir.Value:
    return _placeholder(graph, part.prefix + name, part.parameters[name])


def _placeholder(graph: ir.Graph, name: str, parameter: Parameter) -> ir.Value:
    """Add or change the initializer of that name, with a parameter's type and shape; return it.

    Its values are bound later.
    """
    value = graph.initializers.get(name)
    if value is None:
        value = ir.Value(name=name)
    value.shape = ir.Shape(parameter.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(parameter.dtype)))
    leave_open(value)
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
