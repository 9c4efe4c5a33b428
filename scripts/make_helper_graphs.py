"""Write the helper graphs, which fill, copy and move rows of buffers in a device's memory.

    python scripts/make_helper_graphs.py [FOLDER]

onnxruntime has no functions for this. Python's are in runtime/device/graphs, the page's in
web/src/engine/graphs. Sizes are free, so that one file of each type of numbers serves all buffers.
A test makes them anew and compares the bytes, so run this after any change here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parent.parent
TYPES = ("float16", "float32")
_IN_TEXT = {"float32": "float"}  # names of types in ONNX's textual syntax
_BUFFER = "[batch, heads, capacity, head_dim]"
_ROWS_AXIS = "int64[1] rows_axis = {2}"
_TO_THE_END = f"int64[1] end = {{{2**63 - 1}}}"

TOGETHER = (4, 16)  # buffers that one call of a graph may move; a call costs more than its copies


def together(name: str, count: int) -> str:
    """Return one of the graphs copy, copy_rows and shift for so many buffers, which are numbered.

    The type of the numbers is TYPE.
    """
    # Inputs and nodes by number
    numbers = range(count)
    inputs = {
        "copy": lambda i: f"TYPE{_BUFFER} values_{i}",
        "copy_rows": lambda i: (
            f"TYPE{_BUFFER} past_{i}, TYPE[batch, heads, num_rows, head_dim] rows_{i}"
        ),
        "shift": lambda i: f"TYPE{_BUFFER} past_{i}",
    }[name]
    output = "copy" if name == "copy" else "present"
    nodes = {
        "copy": lambda i: f"copy_{i} = Identity (values_{i})",
        "copy_rows": lambda i: f"present_{i} = TensorScatter <axis = 2> (past_{i}, rows_{i})",
        "shift": lambda i: (
            f"""
            kept_{i} = Slice (past_{i}, start, end, rows_axis)
            present_{i} = TensorScatter <axis = 2> (past_{i}, kept_{i})"""
        ),
    }[name]

    # Join them with what they share
    start, constants = "", ""
    if name == "shift":
        start, constants = ", int64[1] start", f"<{_TO_THE_END}, {_ROWS_AXIS}>"
    outputs = ", ".join(f"TYPE{_BUFFER} {output}_{i}" for i in numbers)
    return f"""
        {name} ({", ".join(map(inputs, numbers))}{start}) => ({outputs}) {constants} {{
            {" ".join(map(nodes, numbers))}
        }}"""


# In ONNX's textual syntax, with TYPE for the type of the numbers; `TYPE[]` has any rank. Where
# TensorScatter writes, `past` and `present` are one buffer, of which Slice copies rows before.
PYTHON: Mapping[str, str] = {
    "zeros": """
        zeros (int64[rank] shape) => (TYPE[] zeros) {
            zeros = ConstantOfShape <value: tensor = TYPE[1] {0}> (shape)
        }""",
    "copy": """
        copy (TYPE[] values) => (TYPE[] copy) {
            copy = Identity (values)
        }""",
    # The rows from `start` on come first; those after them stay
    "shift": f"""
        shift (TYPE{_BUFFER} past, int64[1] start) => (TYPE{_BUFFER} present)
        <{_TO_THE_END}, {_ROWS_AXIS}> {{
            kept = Slice (past, start, end, rows_axis)
            present = TensorScatter <axis = 2> (past, kept)
        }}""",
    # The same for providers without a kernel of TensorScatter, in new memory; the others follow
    "rotate": f"""
        rotate (TYPE{_BUFFER} past, int64[1] start) => (TYPE{_BUFFER} present)
        <int64[1] zero = {{0}}, {_TO_THE_END}, {_ROWS_AXIS}> {{
            kept = Slice (past, start, end, rows_axis)
            others = Slice (past, zero, start, rows_axis)
            present = Concat <axis = 2> (kept, others)
        }}""",
    # `rows` become the first rows; those after them stay
    "copy_rows": f"""
        copy_rows (TYPE{_BUFFER} past, TYPE[batch, heads, num_rows, head_dim] rows)
        => (TYPE{_BUFFER} present) {{
            present = TensorScatter <axis = 2> (past, rows)
        }}""",
    **{
        f"{name}_{count}": together(name, count)
        for name in ("copy", "copy_rows", "shift")
        for count in TOGETHER
    },
}
PAGE: Mapping[str, str] = {
    # Of zeros, so Relu, whose kernel writes new memory on WebGPU, does not change them
    "copy": """
        copy (TYPE[] values) => (TYPE[] copy) {
            copy = Relu (values)
        }""",
}
FOLDERS = {"runtime/device/graphs": PYTHON, "web/src/engine/graphs": PAGE}
_VERSIONS = '<ir_version: 10, opset_import: ["": 24]>'  # of operators, the first with TensorScatter


def main(root: Path) -> None:
    """Write all graphs below a folder with the layout of the source tree."""
    for folder, graphs in FOLDERS.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, text in graphs.items():
            for dtype in TYPES:
                typed = text.replace("TYPE", _IN_TEXT.get(dtype, dtype))
                model = onnx.parser.parse_model(f"{_VERSIONS} {typed}")
                content = model.SerializeToString(deterministic=True)
                (root / folder / f"{name}_{dtype}.onnx").write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
