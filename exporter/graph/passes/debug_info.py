"""Removal of debug information: source lines, docstrings and the tracer's own axis names."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass


def strip_debug_info(model: ir.Model) -> int:
    """Remove metadata, and shapes and types of inner values.

    Those shapes have the tracer's axis names; runtimes infer them again from the inputs.

    Returns:
        The number of inner values that had a shape or a type.
    """
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    stripped, wanted = 0, set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in wanted and (value.shape is not None or value.type is not None):
                value.shape, value.type = None, None
                stripped += 1
    return stripped
