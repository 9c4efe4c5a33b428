"""The same computation is written once."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass


def merge_common_subexpressions(model: ir.Model) -> int:
    """Rule: two nodes with equal operator, inputs and attributes become one.

    Returns how many nodes went.
    """
    before = len(model.graph)
    CommonSubexpressionEliminationPass()(model)
    return before - len(model.graph)
