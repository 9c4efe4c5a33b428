"""Names and order that depend on the graph only, not on how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass


def name_values(model: ir.Model, weights: Iterable[str]) -> None:
    """Name nodes and their outputs by operator and number, constants by number.

    Weights keep their names. Constant nodes become initializers, of which equal ones are merged.
    Initializers are put in the order in which nodes read them.
    """
    # Merge and order the initializers
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    graph, kept = model.graph, {*model.graph.inputs, *model.graph.outputs}
    named = {*weights, *(value.name for value in graph.inputs)}  # an input may have a default
    ordered: dict[object, ir.Value] = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer():
                node.replace_input_with(index, ordered.setdefault(_identity(value, named), value))

    # Name the constants
    graph.initializers.clear()
    for number, value in enumerate(value for value in ordered.values() if value.name not in named):
        tensor = value.const_value
        assert tensor is not None
        value.name, value.shape = f"constant_{number}", ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
    for value in ordered.values():
        graph.initializers.add(value)

    # Name the nodes
    counts: Counter[str] = Counter()
    for node in graph:
        node.name = f"{node.op_type}_{counts[node.op_type]}"
        counts[node.op_type] += 1
        for index, value in enumerate(node.outputs):
            if value.name and value not in kept:
                value.name = node.name if index == 0 else f"{node.name}.{index}"


def _identity(value: ir.Value, named: Container[str | None]) -> object:
    if value.name in named:
        return value.name
    assert value.const_value is not None, f"{value.name}: neither a weight nor a constant"
    return (
        value.const_value.dtype,
        tuple(value.const_value.shape.numpy()),
        value.const_value.tobytes(),
    )
