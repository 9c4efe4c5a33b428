"""Dead code elimination."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def remove_unused_nodes(model: ir.Model) -> int:
    """Remove nodes and initializers that nothing reads.

    Returns:
        The number of nodes removed.
    """
    before = len(model.graph)
    RemoveUnusedNodesPass()(model)
    return before - len(model.graph)
