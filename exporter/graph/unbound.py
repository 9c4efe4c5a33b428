"""A graph whose weights have no values yet: what a trace or a retargeted graph is finished to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..model.parameters import named_parameters
from .families.spec import GraphPlan
from .names import name_values


@dataclass(frozen=True, slots=True)
class UnboundGraph:
    """A graph whose initializers have the names, shapes and types of its plan's parameters."""

    plan: GraphPlan
    model: ir.Model
    operators: dict[str, int]  # numbers of nodes


def finish(plan: GraphPlan, model: ir.Model) -> UnboundGraph:
    """Check a graph against its plan, and give its values and nodes their final names.

    Raises:
        AssertionError: the graph has other inputs, outputs or fused operators than the plan.
    """
    # Check and declare inputs and outputs
    for value, spec in zip(
        (*model.graph.inputs, *model.graph.outputs), (*plan.inputs, *plan.outputs), strict=True
    ):
        assert value.name == spec.name, f"{plan.role}: expected {spec.name}, found {value.name}"
        value.shape = ir.Shape(spec.shape)
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
    for value, spec in zip(model.graph.inputs, plan.inputs, strict=True):
        if spec.name in plan.defaults:
            value.const_value = ir.tensor(np.array([plan.defaults[spec.name]]), name=spec.name)
            model.graph.register_initializer(value)

    # Name values and nodes; parameters have no values yet, not even a trace's stand-ins
    names = named_parameters(plan.parts)
    name_values(model, names)
    for name in names.keys() & model.graph.initializers.keys():
        leave_open(model.graph.initializers[name])

    # Check the operators
    operators = dict(sorted(Counter(node.op_type for node in model.graph).items()))
    for operator, count in plan.fused_operators.items():
        found = operators.get(operator, 0)
        assert found == count, f"{plan.role}: expected {count} {operator} nodes, found {found}"
    assert not plan.standard or "com.microsoft" not in model.opset_imports, (
        f"{plan.role}: has contrib operators"
    )
    model.producer_name, model.producer_version = "voxtral-onnx", ""
    return UnboundGraph(plan, model, operators)


def leave_open(value: ir.Value) -> None:
    """Let an initializer with a type and a shape refer to data without a place."""
    assert value.dtype is not None and value.shape is not None
    value.const_value = ir.ExternalTensor(
        "", 0, 0, value.dtype, shape=value.shape, name=str(value.name)
    )
