"""Nodes and initializers that nothing reads are removed."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def remove_unused_nodes(model: ir.Model) -> int:
    """Rule: a node (or initializer) whose outputs nothing reads is removed.

    Returns how many nodes went.
    """
    before = len(model.graph)
    RemoveUnusedNodesPass()(model)
    return before - len(model.graph)
