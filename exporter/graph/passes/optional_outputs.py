"""Removal of optional outputs that nothing reads."""

from __future__ import annotations

import onnx_ir as ir

OPTIONAL_OUTPUTS = {"SkipSimplifiedLayerNormalization": 3}  # mean, inverse deviation, sum


def drop_optional_outputs(model: ir.Model) -> int:
    """Drop unread optional outputs of fused operators, which spares runtimes computing them.

    An output before one that is read is kept without a name, as ONNX requires.

    Returns:
        The number of outputs dropped.
    """
    dropped, wanted = 0, set(model.graph.outputs)
    for node in model.graph:
        optional = OPTIONAL_OUTPUTS.get(node.op_type, 0)
        for value in node.outputs[len(node.outputs) - optional :]:
            if not value.uses() and value not in wanted:
                value.name = ""
                dropped += 1
        while node.outputs[-1].name == "":
            node.resize_outputs(len(node.outputs) - 1)
    return dropped
