"""Codes of 4 bits get their type, which PyTorch lacks."""

from __future__ import annotations

import onnx_ir as ir


def type_packed_codes(model: ir.Model) -> int:
    """Rule.

    Codes and zero points of a DequantizeLinear that are half as wide as its scales are UINT4, two
    in a byte.

    Returns how many initializers changed.
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
