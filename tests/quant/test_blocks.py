"""Quantised blocks: the bit layout, onnxruntime's own kernel as judge, and what is refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from support.parity import assert_parity

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.quant.blocks import dequantize_blockwise, quantize_blockwise
from voxtral_onnx.quant.methods import METHODS
from voxtral_onnx.quant.packing import pack, unpack
from voxtral_onnx.quant.recipe import Rule


@given(
    nps.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 33))), st.sampled_from([4, 8])
)
def test_unpack_is_the_inverse_of_pack(codes, bits):
    codes = codes & ((1 << bits) - 1)
    packed = pack(codes, bits)
    assert packed.shape[-1] == -(-codes.shape[-1] * bits // 8)
    assert (unpack(packed, bits, codes.shape[-1]) == codes).all()


def test_the_even_code_is_low():
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]


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
    assert_parity(
        np.asarray(result).T, dequantize_blockwise(blocks, rule, columns), atol=1e-5, what="weights"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_weights_are_refused(value):
    weight = np.ones((2, 32), np.float32)
    weight[1, 3] = value
    with pytest.raises(QuantizationError, match=r"layers\.3: has non-finite values"):
        quantize_blockwise(weight, Rule("*", 4, 32, "rtn_symmetric"), "layers.3")


def test_values_beyond_float16_scales_are_refused():
    with pytest.raises(QuantizationError, match="beyond float16's range"):
        quantize_blockwise(np.full((1, 32), 1e7, np.float32), Rule("*", 4, 32, "rtn_symmetric"))


def test_only_matrices_are_quantised():
    with pytest.raises(QuantizationError, match=r"expected 2 dimensions, got \[2, 3, 32\]"):
        quantize_blockwise(np.ones((2, 3, 32), np.float32), Rule("*", 4, 32, "rtn_symmetric"))
