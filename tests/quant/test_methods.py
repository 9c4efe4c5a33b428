"""Quantisation methods.

The grids they choose, on all kinds of blocks, and methods of the user's own.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.quant.blocks import dequantize_blockwise, quantize_blockwise
from voxtral_onnx.quant.methods import METHODS, extremes, method
from voxtral_onnx.quant.packing import unpack
from voxtral_onnx.quant.recipe import Rule, load_recipe

# RMS on Gaussian and Student-t3 weights in blocks of 32, measured with an implementation of its own
RELATIVE_ERROR = {
    ("rtn_symmetric", 4): (0.0858, 0.1287),
    ("rtn_asymmetric", 4): (0.0807, 0.1023),
    ("refit_symmetric", 4): (0.0812, 0.1247),
    ("refit_asymmetric", 4): (0.0769, 0.0992),
    ("rtn_symmetric", 8): (0.0053, 0.0084),
    ("rtn_asymmetric", 8): (0.0048, 0.0061),
    ("refit_symmetric", 8): (0.0051, 0.0082),
    ("refit_asymmetric", 8): (0.0046, 0.0059),
}
BLOCK_ERRORS = {32: 0.0859, 64: 0.0950, 128: 0.1032}  # rtn_symmetric, measured in the same way
FLOAT16_TINY = 2.0**-24  # the smallest positive scale
# Of a block's sum of squares: rounding in the float32 sums by which refits are compared
SUMS = 2e-6

magnitudes = st.sampled_from([1e-38, 1e-12, 1e-7, 1e-4, 1.0, 1000.0, 250_000.0])
shapes = st.tuples(st.integers(1, 5), st.integers(1, 100))
units = st.floats(-1, 1, width=32)
weights = st.builds(
    lambda array, size: array * np.float32(size),
    nps.arrays(np.float32, shapes, elements=units),
    magnitudes,
)
every_method = pytest.mark.parametrize("name", METHODS)
every_width = pytest.mark.parametrize("bits", [4, 8])


def there_and_back(weight: np.ndarray, rule: Rule):
    blocks = quantize_blockwise(weight, rule)
    return blocks, dequantize_blockwise(blocks, rule, weight.shape[1])


def block_errors(weight: np.ndarray, rule: Rule) -> np.ndarray:
    """Sum of squared errors of each block, in float64."""
    _, back = there_and_back(weight, rule)
    errors = (back.astype(np.float64) - weight) ** 2
    return (
        np.pad(errors, ((0, 0), (0, -weight.shape[1] % rule.block_size)))
        .reshape(-1, rule.block_size)
        .sum(1)
    )


@every_method
@every_width
@settings(deadline=None, max_examples=60)
@given(weight=weights, block_size=st.sampled_from([16, 32, 128]))
def test_every_value_is_within_a_step_of_its_code(name, bits, weight, block_size):
    rule = Rule("*", bits, block_size, name)
    blocks, back = there_and_back(weight, rule)
    steps = np.repeat(np.abs(blocks.scales), block_size, 1)[:, : weight.shape[1]]
    assert (blocks.scales == blocks.scales.astype(np.float16)).all()
    assert unpack(blocks.packed, bits, block_size).max() < 1 << bits
    if name.startswith("rtn"):
        # Half a step of rounding; a whole one at the end that two's complement leaves out; scales
        # below float16's normal numbers are off by half of the smallest, which every one of the
        # codes multiplies.
        bound = (
            (1 if name == "rtn_symmetric" else 0.75) * steps
            + 2e-3 * np.abs(weight)
            + (1 << bits) * FLOAT16_TINY
        )
        assert (np.abs(back - weight) <= bound).all()


@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
@every_width
@settings(deadline=None, max_examples=60)
@given(weight=weights, block_size=st.sampled_from([16, 32, 128]))
def test_no_block_gets_worse_by_refitting(symmetry, bits, weight, block_size):
    fitted = block_errors(weight, Rule("*", bits, block_size, f"refit_{symmetry}"))
    rounded = block_errors(weight, Rule("*", bits, block_size, f"rtn_{symmetry}"))
    squares = np.pad(weight.astype(np.float64) ** 2, ((0, 0), (0, -weight.shape[1] % block_size)))
    assert (fitted <= rounded + SUMS * squares.reshape(-1, block_size).sum(1)).all()


@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None, max_examples=40)
@given(weight=weights, cut=st.integers(0, 5))
def test_slices_of_rows_give_the_bytes_of_the_whole(name, weight, cut):
    rule = Rule("*", 4, 32, name)
    whole = quantize_blockwise(weight, rule)
    parts = [quantize_blockwise(part, rule) for part in (weight[:cut], weight[cut:]) if len(part)]
    assert np.array_equal(np.concatenate([part.packed for part in parts]), whole.packed)
    assert np.array_equal(np.concatenate([part.scales for part in parts]), whole.scales)
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    if whole.zero_points is not None:
        assert np.array_equal(np.concatenate(zero_points), whole.zero_points)


@given(
    blocks=nps.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([16, 32, 64, 128])),
        elements=st.floats(width=32, allow_nan=False),
    ),
    every=st.sampled_from([1, 2]),
)
def test_extremes_are_the_highest_and_the_lowest_value(blocks, every):
    """Of slices of an array, too."""
    blocks = blocks[:, ::every]
    high, low = extremes(blocks)
    assert high.dtype == low.dtype == np.float32
    assert (high == blocks.max(-1)).all() and (low == blocks.min(-1)).all()


@every_method
@every_width
def test_the_sign_of_a_zero_changes_no_byte(name, bits):
    rng, rule = np.random.default_rng(0), Rule("*", bits, 32, name)
    weight = rng.choice(np.array([0, 0.5, -0.25], np.float32), (64, 256), p=[0.98, 0.01, 0.01])
    signed = np.copysign(weight, rng.choice(np.array([-1, 1], np.float32), weight.shape))
    signed = np.where(weight == 0, signed, weight)
    blocks, same = quantize_blockwise(weight, rule), quantize_blockwise(signed, rule)
    assert blocks.packed.tobytes() == same.packed.tobytes()
    assert blocks.scales.tobytes() == same.scales.tobytes()
    if blocks.zero_points is not None and same.zero_points is not None:
        assert blocks.zero_points.tobytes() == same.zero_points.tobytes()


@every_method
@every_width
@pytest.mark.parametrize("value", [0.0, -0.0, 5.0, -3e-5, 1e-30, -200_000.0])
def test_blocks_of_one_value(name, bits, value):
    weight = np.full((2, 64), value, np.float32)
    _, back = there_and_back(weight, Rule("*", bits, 32, name))
    # A float16 scale is off by 2^-11 of itself, one below its normal numbers by half of the
    # smallest
    assert np.abs(back - weight).max() <= 2.0**-11 * abs(value) + (1 << bits) * FLOAT16_TINY


@every_method
def test_an_outlier_is_kept(name):
    weight = np.full((1, 32), 0.01, np.float32)
    weight[0, 7] = -100
    _, back = there_and_back(weight, Rule("*", 4, 32, name))
    assert abs(back[0, 7] + 100) <= 0.05  # of a float16 scale, 8 to 15 times


@pytest.mark.parametrize(("name", "bits"), RELATIVE_ERROR)
def test_error_on_random_weights(name, bits):
    rng, rule = np.random.default_rng(0), Rule("*", bits, 32, name)
    weights = (
        rng.standard_normal((256, 1024), np.float32),
        rng.standard_t(3, (256, 1024)).astype(np.float32),
    )
    for weight, expected in zip(weights, RELATIVE_ERROR[name, bits], strict=True):
        error = np.linalg.norm(there_and_back(weight, rule)[1] - weight) / np.linalg.norm(weight)
        assert abs(error / expected - 1) < 0.02


@pytest.mark.parametrize("block_size", BLOCK_ERRORS)
def test_error_of_each_block_size(block_size):
    weight = np.random.default_rng(0).standard_normal((256, 1024), dtype=np.float32)
    _, back = there_and_back(weight, Rule("*", 4, block_size, "rtn_symmetric"))
    assert (
        abs(np.linalg.norm(back - weight) / np.linalg.norm(weight) / BLOCK_ERRORS[block_size] - 1)
        < 0.02
    )


@pytest.fixture
def own_method():
    """Registers a method for one test."""
    known = set(METHODS)
    yield method
    for name in METHODS.keys() - known:
        del METHODS[name]


def test_a_registered_method_is_a_method_of_recipes(own_method, tmp_path):
    @own_method(has_zero_points=True)
    def powers_of_two(blocks, bits):
        spread = blocks.max(-1) - blocks.min(-1)
        return np.exp2(np.ceil(np.log2(spread / 7))), np.full(spread.shape, 7, np.float32)

    path = tmp_path / "mine.toml"
    path.write_text(
        'accuracy_level = 4\n[[rules]]\ntensors = "*"\nbits = 4\nblock_size = '
        '32\nmethod = "powers_of_two"'
    )
    rule = load_recipe(str(path)).rule_for("any")
    assert rule and rule.has_zero_points
    weight = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    blocks, back = there_and_back(weight, rule)
    assert blocks.zero_points is not None
    assert (np.log2(blocks.scales) % 1 == 0).all() and (unpack(blocks.zero_points, 4, 2) == 7).all()
    assert np.abs(back - weight).max() < blocks.scales.max() / 2 + 1e-6


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ((np.ones((1, 2)), np.full((1, 2), 8.0)), "zero points: expected none"),
        ((np.ones(2), None), r"scales: expected \[1, 2\], got \[2\]"),
        ((np.full((1, 2), np.nan), None), "scale beyond float16"),
    ],
)
def test_a_method_that_breaks_its_promise_is_named(own_method, grid, message):
    @own_method(has_zero_points=False)
    def broken(blocks, bits):
        return grid

    with pytest.raises(QuantizationError, match=message) as caught:
        quantize_blockwise(np.ones((1, 64), np.float32), Rule("*", 4, 32, "broken"), "layers.3")
    assert "layers.3" in str(caught.value)


@pytest.mark.parametrize("zero", [-1.0, 16.0, 2.5, np.nan])
def test_zero_points_that_are_no_codes_are_refused(own_method, zero):
    @own_method(has_zero_points=True)
    def broken(blocks, bits):
        return np.ones(blocks.shape[:-1]), np.full(blocks.shape[:-1], zero)

    with pytest.raises(QuantizationError, match="zero points: expected whole codes from 0 to 15"):
        quantize_blockwise(np.ones((1, 64), np.float32), Rule("*", 4, 32, "broken"))
