"""Make a graph of any depth from a trace of two layers, by repeating the second.

Layer 0 differs from the others, because no branch is pending before its first norm; layer 1 is the
same as all that follow. Tracing takes seconds a layer, repeating next to none.
"""

from __future__ import annotations

import re

import onnx_ir as ir

TRACED_LAYERS = 2
_LAYER = re.compile(r"(?<=\.)1(?=\.)")  # the number of layer 1 in names of weights and caches


def repeat_last_layer(model: ir.Model, num_layers: int) -> None:
    """Append copies of layer 1 to a graph of two layers until it has `num_layers`.

    A copy reads the residual stream and the pending branch of the layer before it, which the final
    norm reads in the traced graph. Names of weights, caches and inner values get the copy's number.
    """
    # Find the body of layer 1, and the values by which layers are joined
    if num_layers <= TRACED_LAYERS:
        return
    graph = model.graph
    first, last = _join(graph, "layers.1.input_layernorm"), _join(graph, r"^[^.]+\.norm")
    nodes = list(graph)
    body = nodes[nodes.index(first) : nodes.index(last)]
    inner = {output for node in body for output in node.outputs}
    entries, exits = first.inputs[:2], last.inputs[:2]  # residual, branch
    ends = exits  # those of the layer before

    # Copy the body once a layer
    for number in range(TRACED_LAYERS, num_layers):
        values: dict[ir.Value | None, ir.Value | None] = dict(zip(entries, ends, strict=True))

        def mapped(value: ir.Value | None, values=values, number=number) -> ir.Value | None:
            if value in values or value is None:
                return values.get(value)
            if value.is_initializer() and ".layers.1." in str(value.name):
                values[value] = _copy(value, number)
                graph.register_initializer(values[value])
            elif value.is_graph_input() and str(value.name).startswith("past_key_values.1."):
                values[value] = _copy(value, number)
                graph.inputs.append(values[value])
            else:
                assert value not in inner, f"{value.name} is read before it is written"
                return value  # shared by all layers: rotation, positions, constants
            return values[value]

        for node in body:
            inputs = [mapped(value) for value in node.inputs]
            outputs = [_copy(output, number) for output in node.outputs]
            values |= zip(node.outputs, outputs, strict=True)
            graph.insert_before(
                last,
                ir.Node(
                    node.domain,
                    node.op_type,
                    inputs,
                    attributes=node.attributes.values(),
                    outputs=outputs,
                    name=f"{node.name}.{number}",
                ),
            )
            graph.outputs.extend(
                copy
                for output, copy in zip(node.outputs, outputs, strict=True)
                if output.is_graph_output()
            )
        ends = [values[value] for value in exits]

    # Let the final norm read the last copy
    for index, value in enumerate(ends):
        last.replace_input_with(index, value)


def _join(graph: ir.Graph, weight: str) -> ir.Node:
    """Return the node that adds the pending branch to the residual stream before a norm.

    It is the fused norm that reads the weight of that name, or the sum before a standard one.
    """
    norm = next(
        node
        for node in graph
        for value in node.inputs
        if value is not None and re.search(weight, str(value.name))
    )
    if norm.op_type != "RMSNormalization":
        return norm
    value = norm.inputs[0]
    assert value is not None
    joins = value.producer()
    assert joins is not None and joins.op_type == "Add", f"{weight}: no sum before the norm"
    return joins


def _copy(value: ir.Value, number: int) -> ir.Value:
    name = str(value.name)
    renamed = (
        _LAYER.sub(str(number), name, count=1)
        if _LAYER.search(name)
        else name and f"{name}.{number}"
    )
    return ir.Value(name=renamed, shape=value.shape, type=value.type, const_value=value.const_value)
