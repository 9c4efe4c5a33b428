"""Blocks of Q4_0 and Q8_0 against the `gguf` package's reading of them."""

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.quant.blocks import dequantize_blockwise
from voxtral_onnx.quant.gguf import TYPES, decode_blocks, repack
from voxtral_onnx.quant.packing import unpack
from voxtral_onnx.quant.recipe import Rule


@st.composite
def stored_rows(draw):
    """Draw rows of any codes under any finite scales.

    Negative scales and zeros of both signs are among them.
    """
    bits = draw(st.sampled_from([4, 8]))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    scales = draw(nps.arrays(np.float16, shape, elements=st.floats(-65504, 65504, width=16)))
    codes = draw(nps.arrays(np.uint8, (*shape, 4 * bits)))
    return np.concatenate((scales.astype("<f2")[..., None].view(np.uint8), codes), -1).reshape(
        shape[0], -1
    ), bits


@given(stored_rows())
def test_repacked_blocks_are_the_same_numbers(rows_bits):
    rows, bits = rows_bits
    blocks = repack(rows, bits)
    num_columns = 32 * blocks.scales.shape[1]
    back = dequantize_blockwise(blocks, Rule("*", bits, 32, "as_stored"), num_columns)
    assert np.array_equal(back, dequantize(rows, GGMLQuantizationType[TYPES[bits]]))


@given(stored_rows())
def test_both_ways_of_reading_blocks_agree(rows_bits):
    rows, bits = rows_bits
    blocks, (scales, codes) = repack(rows, bits), decode_blocks(rows, bits)
    assert np.array_equal(scales, blocks.scales)
    assert np.array_equal(codes, unpack(blocks.packed, bits, 32))


def test_a_code_stands_where_the_formats_draw_it():
    rows = np.zeros((1, 18), np.uint8)
    rows[0, 2 + 5] = 0xA3  # Q4_0: value 5 is code 3, value 21 is code 10
    packed = repack(rows, 4).packed[0, 0]
    assert packed[2] == 0x30 and packed[10] == 0xA0 and packed.astype(int).sum() == 0x30 + 0xA0


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan])
def test_non_finite_scales_are_refused(bits, scale):
    rows = quantize(np.ones((2, 64), np.float32), GGMLQuantizationType[TYPES[bits]])
    rows[1, :2] = np.array([scale], "<f2").view(np.uint8)
    with pytest.raises(
        QuantizationError,
        match=r"layers\.3: has non-finite scales.*shards are out "
        r"of order",
    ):
        repack(rows, bits, "layers.3")
