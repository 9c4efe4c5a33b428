"""Nodes whose inputs are all constants become constants."""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer


def fold_constants(model: ir.Model) -> int:
    """Rule.

    Slice bounds and shapes that the tracer spelled out as Cast and Reshape of constants are
    computed now.

    Initializers hold no values yet and are left alone. Returns how many nodes went.
    """
    before = len(model.graph)
    onnxscript.optimizer.fold_constants(model)
    return before - len(model.graph)
