"""Small graphs that fill, copy and move rows of buffers in a device's memory.

onnxruntime has no functions for this. Every graph serves all sizes; buffers are [batch, heads,
capacity, head_dim], and `present` has to be bound to the buffer of `past` where "in place" is said.

    zeros      zeros of the `shape`, int64 [rank]
    copy       `values`, of any rank, in other memory: `copy`
    shift      in place: the rows of `past` from `start`, int64 [1], are copied to its front
    rotate     the rows of `past` from `start` come first in `present`, and then the others
    copy_rows  in place: `rows`, [batch, heads, num_rows, head_dim], become the first rows of `past`

scripts/make_helper_graphs.py writes them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "graphs"


def helper_graph(name: str, dtype: np.dtype) -> str:
    """Return the path of a graph for buffers in float16 or float32."""
    return str(FOLDER / f"{name}_{dtype.name}.onnx")
