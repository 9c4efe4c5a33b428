"""Export with a quantisation method of your own.

This one clips outliers at three times the root mean square of their block.

    python examples/extend/quantizer.py CHECKPOINT ARTIFACT
"""

import sys

import numpy as np

from voxtral_onnx import export
from voxtral_onnx.quant.methods import method
from voxtral_onnx.quant.recipe import Recipe, Rule


@method(has_zero_points=False)
def clipped(blocks, bits):
    """Return the scales [...] of blocks [..., block_size], and None: codes have no zero points."""
    largest = np.abs(blocks).max(-1)
    limit = 3 * np.sqrt(np.square(blocks).mean(-1))
    return np.minimum(largest, limit) / (2 ** (bits - 1) - 1), None


RECIPE = Recipe(
    "clipped", accuracy_level=4, rules=(Rule("*", bits=4, block_size=32, method="clipped"),)
)

if __name__ == "__main__":
    print(export(sys.argv[1], sys.argv[2], precisions=["q4"], recipe=RECIPE))
