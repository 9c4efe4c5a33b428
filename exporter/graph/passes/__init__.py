"""Clean a traced graph by rules, one a file.

Each rule changes the model in place and returns the number of its changes.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .common_subexpressions import merge_common_subexpressions
from .constants import fold_constants
from .debug_info import strip_debug_info
from .optional_outputs import drop_optional_outputs
from .packed_codes import type_packed_codes
from .reshapes import make_reshapes_static
from .unused_nodes import remove_unused_nodes

PIPELINE: tuple[Callable[[ir.Model], int], ...] = (
    fold_constants,
    make_reshapes_static,
    remove_unused_nodes,
    merge_common_subexpressions,
    drop_optional_outputs,
    type_packed_codes,
    strip_debug_info,
)


def clean(model: ir.Model) -> dict[str, int]:
    """Run all rules and return the number of changes by the rule's name."""
    return {rule.__name__: rule(model) for rule in PIPELINE}
