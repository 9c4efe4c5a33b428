"""The type UINT4 for packed 4-bit codes, which PyTorch lacks."""

from __future__ import annotations

import onnx_ir as ir


def type_packed_codes(model: ir.Model) -> int:
    """Change the codes and zero points of DequantizeLinear that are packed two a byte to UINT4.

    They are those that are half as wide as the scales.

    Returns:
        The number of initializers changed.
    """
    typed = 0
    for node in model.graph:
        if node.op_type != "DequantizeLinear":
            continue
        codes, scales, zero_points = node.inputs
        assert codes is not None and scales is not None and zero_points is not None
        assert scales.shape is not None
        width = scales.shape[1]
        for value in (codes, zero_points):
            assert value.shape is not None
            if value.shape[1] != width:
                value.shape = ir.Shape((value.shape[0], width))
                value.type = ir.TensorType(ir.DataType.UINT4)
                typed += 1
    return typed
