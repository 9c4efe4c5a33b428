"""Constant folding."""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer


def fold_constants(model: ir.Model) -> int:
    """Replace nodes whose inputs are all constants by their results.

    The tracer writes slice bounds and shapes as Cast and Reshape of constants. Initializers have
    no values yet, so what reads them stays.

    Returns:
        The number of nodes removed.
    """
    before = len(model.graph)
    onnxscript.optimizer.fold_constants(model)
    return before - len(model.graph)
