"""`onnx.checker` on the files of an artifact, and what it does not know there."""

from __future__ import annotations

from pathlib import Path

import onnx

# What the standard calls the operators that onnxruntime has under other names in its domain
STANDARD = {"SimplifiedLayerNormalization": "RMSNormalization"}


def refused_operators(path: Path) -> dict[str, int]:
    """Return the operators that keep the checker from accepting a graph, with their counts.

    Under their standard names it accepts them, inference of types and shapes included.
    """
    model = onnx.load(path, load_external_data=False)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            found[node.op_type] = found.get(node.op_type, 0) + 1
            node.op_type = STANDARD[node.op_type]
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        (name,) = found
        assert f"No Op registered for {name}" in str(error)
    else:
        assert not found

    renamed = path.with_suffix(".renamed.onnx")  # beside the data files that it names
    try:
        onnx.save(model, renamed)
        onnx.checker.check_model(str(renamed), full_check=True)
    finally:
        renamed.unlink(missing_ok=True)
    return found
