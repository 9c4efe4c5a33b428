"""Quantised blocks: the bit layout, the error of each method, and onnxruntime's own kernel as judge."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from parity import assert_parity

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.quant import recipe as recipe_module
from voxtral_onnx.quant.blocks import dequantize_blockwise, quantize_blockwise
from voxtral_onnx.quant.methods import METHODS
from voxtral_onnx.quant.packing import pack, unpack
from voxtral_onnx.quant.recipe import Rule, load_recipe

RELATIVE_ERROR = {  # rms on Gaussian weights in blocks of 32, measured with an implementation of its own
    ("rtn_symmetric", 4): 0.0859,
    ("rtn_asymmetric", 4): 0.0808,
    ("rtn_symmetric", 8): 0.0053,
    ("rtn_asymmetric", 8): 0.0048,
}
BLOCK_ERRORS = {32: 0.0859, 64: 0.0950, 128: 0.1032}  # rtn_symmetric, measured in the same way
RECIPES = sorted((Path(recipe_module.__file__).parent / "recipes").glob("*.toml"))
weights = nps.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 100)),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)


@given(nps.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 33))), st.sampled_from([4, 8]))
def test_unpack_is_the_inverse_of_pack(codes, bits):
    codes = codes & ((1 << bits) - 1)
    packed = pack(codes, bits)
    assert packed.shape[-1] == -(-codes.shape[-1] * bits // 8)
    assert (unpack(packed, bits, codes.shape[-1]) == codes).all()


def test_the_even_code_is_low():
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]


@settings(deadline=None)
@given(weights, st.sampled_from(list(RELATIVE_ERROR)), st.sampled_from([16, 32, 64]))
def test_every_value_is_within_a_step_of_its_code(weight, method_bits, block_size):
    method, bits = method_bits
    rule = Rule("*", bits, block_size, method)
    blocks = quantize_blockwise(weight, rule)
    back = dequantize_blockwise(blocks, rule, weight.shape[1])
    steps = np.repeat(np.abs(blocks.scales), block_size, 1)[:, : weight.shape[1]]
    # half a step of rounding; a whole one at the end that two's complement leaves out; float16 scales are 0.05 % off
    bound = (1 if method == "rtn_symmetric" else 0.75) * steps + 2e-3 * np.abs(weight) + 1e-4
    assert (np.abs(back - weight) <= bound).all()
    assert (blocks.scales == blocks.scales.astype(np.float16)).all()


@pytest.mark.parametrize(("method", "bits"), RELATIVE_ERROR)
def test_error_on_gaussian_weights(method, bits):
    weight = np.random.default_rng(0).standard_normal((256, 1024), dtype=np.float32)
    rule = Rule("*", bits, 32, method)
    back = dequantize_blockwise(quantize_blockwise(weight, rule), rule, 1024)
    assert abs(np.linalg.norm(back - weight) / np.linalg.norm(weight) / RELATIVE_ERROR[method, bits] - 1) < 0.02


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("columns", "block_size"), [(128, 32), (160, 32), (96, 16), (256, 128)])
def test_onnxruntime_reads_the_same_weights(method, bits, columns, block_size):
    """MatMulNBits at accuracy 0 of the identity is the dequantised weight."""
    rule = Rule("*", bits, block_size, method)
    weight = np.random.default_rng(1).standard_normal((24, columns), dtype=np.float32)
    blocks = quantize_blockwise(weight, rule)
    arrays = {"B": blocks.packed, "scales": blocks.scales, "zero_points": blocks.zero_points}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    node = onnx.helper.make_node(
        "MatMulNBits", ["A", *arrays], ["Y"], domain="com.microsoft",
        K=columns, N=24, bits=bits, block_size=block_size, accuracy_level=0,
    )  # fmt: skip
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info("A", onnx.TensorProto.FLOAT, ["m", columns])],
        [onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, ["m", 24])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    identity = np.eye(columns, dtype=np.float32)
    result = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"A": identity})[0]
    assert_parity(np.asarray(result).T, dequantize_blockwise(blocks, rule, columns), atol=1e-5, what="weights")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_weights_are_refused(value):
    weight = np.ones((2, 32), np.float32)
    weight[1, 3] = value
    with pytest.raises(QuantizationError, match=r"layers\.3: has non-finite values"):
        quantize_blockwise(weight, Rule("*", 4, 32, "rtn_symmetric"), "layers.3")


def test_values_beyond_float16_scales_are_refused():
    with pytest.raises(QuantizationError, match="beyond float16's range"), np.errstate(over="ignore"):
        quantize_blockwise(np.full((1, 32), 1e7, np.float32), Rule("*", 4, 32, "rtn_symmetric"))


def test_only_matrices_are_quantised():
    with pytest.raises(QuantizationError, match=r"expected 2 dimensions, got \[2, 3, 32\]"):
        quantize_blockwise(np.ones((2, 3, 32), np.float32), Rule("*", 4, 32, "rtn_symmetric"))


def test_zero_blocks_stay_zero():
    for method in METHODS:
        rule = Rule("*", 4, 32, method)
        back = dequantize_blockwise(quantize_blockwise(np.zeros((1, 64), np.float32), rule), rule, 64)
        assert not back.any()


def test_the_first_matching_rule_counts():
    recipe = load_recipe("default")
    table, other = recipe.rule_for("language_model.embed_tokens"), recipe.rule_for("audio_tower.layers.0.mlp.up_proj")
    assert table and table.method == "rtn_symmetric" and other and other.method == "rtn_asymmetric"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = [", "cannot be read"),
        ("accuracy_level = 4", "expected accuracy_level and rules"),
        ("rules = []", "accuracy_level"),
        ("accuracy_level = 9\nrules = []", "expected 0 to 4, got 9"),
        ("accuracy_level = 4\ncolour = 1\nrules = []", "colour"),
        *(
            (f"accuracy_level = 4\n[[rules]]\ntensors = '*'\n{line}", f"{line.split()[0]}: expected")
            for line in (
                "bits = 3\nblock_size = 32\nmethod = 'rtn_symmetric'",
                "block_size = 256\nbits = 4\nmethod = 'rtn_symmetric'",
                "method = 'magic'\nbits = 4\nblock_size = 32",
            )
        ),
    ],
)
def test_bad_recipes_say_what_is_wrong(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(QuantizationError, match=message):
        load_recipe(str(tmp_path / "mine.toml"))


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(QuantizationError, match=r"'defualt'.*'default', 'gguf-q4_0', 'gguf-q8_0', 'q8', 'small'"):
        load_recipe("defualt")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_compute_in_int8(path):
    """8-bit weights at accuracy 0 are a hundred times slower on the CPU."""
    recipe = load_recipe(path.stem)
    assert recipe.accuracy_level == 4 and recipe.name == path.stem
    assert recipe.rule_for("language_model.embed_tokens") and recipe.rule_for("audio_tower.layers.0.mlp.up_proj")


@pytest.mark.parametrize("block_size", BLOCK_ERRORS)
def test_error_of_each_block_size(block_size):
    weight = np.random.default_rng(0).standard_normal((256, 1024), dtype=np.float32)
    rule = Rule("*", 4, block_size, "rtn_symmetric")
    back = dequantize_blockwise(quantize_blockwise(weight, rule), rule, 1024)
    assert abs(np.linalg.norm(back - weight) / np.linalg.norm(weight) / BLOCK_ERRORS[block_size] - 1) < 0.02
