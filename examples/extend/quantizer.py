"""A quantiser of your own: outliers are clipped at three times the root mean square of their block.

Run it: python examples/extend/quantizer.py CHECKPOINT ARTIFACT
"""

import sys

import numpy as np

from voxtral_onnx import export
from voxtral_onnx.quant.methods import method
from voxtral_onnx.quant.recipe import Recipe, Rule


@method(has_zero_points=False)
def clipped(blocks, bits):
    """Scales of blocks [..., block_size]; no zero points, so the middle code stands for zero."""
    largest = np.abs(blocks).max(-1)
    limit = 3 * np.sqrt(np.square(blocks).mean(-1))
    return np.minimum(largest, limit) / (2 ** (bits - 1) - 1), None


RECIPE = Recipe(
    "clipped", accuracy_level=4, rules=(Rule("*", bits=4, block_size=32, method="clipped"),)
)

if __name__ == "__main__":
    print(export(sys.argv[1], sys.argv[2], precisions=["q4"], recipe=RECIPE))
