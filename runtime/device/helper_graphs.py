"""Small graphs that fill, copy and move rows of buffers in a device's memory.

onnxruntime has no functions for this. Every graph serves all sizes; buffers are [batch, heads,
capacity, head_dim], and `present` has to be bound to the buffer of `past` where "in place" is said.

    zeros      zeros of the `shape`, int64 [rank]
    copy       `values`, of any rank, in other memory: `copy`
    shift      in place: the rows of `past` from `start`, int64 [1], are copied to its front
    rotate     the rows of `past` from `start` come first in `present`, and then the others
    copy_rows  in place: `rows`, [batch, heads, num_rows, head_dim], become the first rows of `past`

Those that copy or shift also exist for several buffers at a time, whose names are then numbered.
scripts/make_helper_graphs.py writes them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "graphs"
TOGETHER = (16, 4, 1)  # buffers of one call


def helper_graph(name: str, dtype: np.dtype, count: int = 1) -> str:
    """Return the path of a graph for so many buffers in float16 or float32."""
    number = f"_{count}" if count > 1 else ""
    return str(FOLDER / f"{name}{number}_{dtype.name}.onnx")
