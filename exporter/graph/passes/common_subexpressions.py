"""Common subexpression elimination."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass


def merge_common_subexpressions(model: ir.Model) -> int:
    """Merge nodes with equal operator, inputs and attributes.

    Returns:
        The number of nodes removed.
    """
    before = len(model.graph)
    CommonSubexpressionEliminationPass()(model)
    return before - len(model.graph)
