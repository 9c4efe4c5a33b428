"""Constant targets for Reshape nodes whose target the tracer computes from shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def make_reshapes_static(model: ir.Model) -> int:
    """Replace the computed target of a Reshape by a constant one.

    A fixed axis becomes its size, an axis that equals the input's at the same place 0, another one
    -1. More than one -1 is ambiguous, so such a Reshape stays. The Shape, Squeeze and Concat nodes
    that computed the target become unused.

    Returns:
        The number of Reshape nodes changed.
    """
    changed = 0
    for node in model.graph:
        if (
            node.op_type != "Reshape"
            or node.inputs[1] is None
            or ir.convenience.get_const_tensor(node.inputs[1])
        ):
            continue
        target = _static_target(node.inputs[0], node.outputs[0])
        if target is None:
            continue
        name = f"{node.outputs[0].name}_target"
        value = ir.Value(name=name, const_value=ir.tensor(np.array(target, np.int64), name=name))
        value.shape, value.type = ir.Shape([len(target)]), ir.TensorType(ir.DataType.INT64)
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        changed += 1
    return changed


def _static_target(data: ir.Value | None, output: ir.Value) -> list[int] | None:
    if data is None or data.shape is None or output.shape is None:
        return None
    target = []
    for axis, size in enumerate(output.shape):
        if isinstance(size, int):
            target.append(size)
        elif axis < len(data.shape) and data.shape[axis] == size:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None
