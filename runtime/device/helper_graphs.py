"""Small graphs that fill, copy and shift buffers in a device's memory.

onnxruntime has no functions for this. The graphs are encoded here, field by field, because the
runtime does not depend on the package `onnx`. Source: onnx.proto.
"""

from __future__ import annotations

import numpy as np

INT64 = 7  # TensorProto.DataType
_ELEMENT_TYPES = {"float32": 1, "float16": 10}
_INT, _TENSOR = 2, 4  # AttributeProto.AttributeType


def zeros_model(dtype: np.dtype, rank: int) -> bytes:
    """Return an ONNX model with the input `shape`, int64 [rank], and the output `zeros`."""
    element_type = _ELEMENT_TYPES[dtype.name]
    zero = _field(1, 1) + _field(2, element_type) + _field(9, bytes(dtype.itemsize))
    return _model(
        _node(
            "ConstantOfShape",
            ("shape",),
            "zeros",
            _field(1, "value") + _field(5, zero) + _field(20, _TENSOR),
        )
        + _field(2, "zeros")
        + _field(11, _value_info("shape", INT64, (rank,)))
        + _field(12, _value_info("zeros", element_type, tuple(f"size_{i}" for i in range(rank))))
    )


def copy_model(dtype: np.dtype) -> bytes:
    """Return an ONNX model that copies `values`, of rank 4, to `copy`."""
    element_type = _ELEMENT_TYPES[dtype.name]
    shape = tuple(f"size_{i}" for i in range(4))
    return _model(
        _node("Identity", ("values",), "copy")
        + _field(2, "copy")
        + _field(11, _value_info("values", element_type, shape))
        + _field(12, _value_info("copy", element_type, shape))
    )


def shift_in_place_model(dtype: np.dtype, capacity: int, keep: int) -> bytes:
    """Return an ONNX model that copies the last `keep` rows of a buffer to its front.

    The input `past`, [1, heads, capacity, head_dim], and the output `present` must be bound to the
    same buffer. Slice copies the rows to other memory before TensorScatter writes them at row 0.
    """
    element_type = _ELEMENT_TYPES[dtype.name]
    shape = (1, "heads", capacity, "head_dim")
    constants = {"start": capacity - keep, "end": capacity, "axis": 2}
    return _model(
        _node("Slice", ("past", "start", "end", "axis"), "kept")
        + _node(
            "TensorScatter",
            ("past", "kept"),
            "present",
            _field(1, "axis") + _field(3, 2) + _field(20, _INT),
        )
        + _field(2, "move_rows")
        + b"".join(_initializer(name, value) for name, value in constants.items())
        + _field(11, _value_info("past", element_type, shape))
        + _field(12, _value_info("present", element_type, shape))
    )


def shift_model(dtype: np.dtype, capacity: int, keep: int) -> bytes:
    """Return an ONNX model that rotates rows: the last `keep` come first, then the others.

    The input is `past`, [1, heads, capacity, head_dim], the output `present`. It is for providers
    without a kernel of TensorScatter.
    """
    element_type = _ELEMENT_TYPES[dtype.name]
    shape = (1, "heads", capacity, "head_dim")
    constants = {"zero": 0, "start": capacity - keep, "end": capacity, "axis": 2}
    return _model(
        _node("Slice", ("past", "start", "end", "axis"), "kept")
        + _node("Slice", ("past", "zero", "start", "axis"), "others")
        + _node(
            "Concat",
            ("kept", "others"),
            "present",
            _field(1, "axis") + _field(3, 2) + _field(20, _INT),
        )
        + _field(2, "roll_rows")
        + b"".join(_initializer(name, value) for name, value in constants.items())
        + _field(11, _value_info("past", element_type, shape))
        + _field(12, _value_info("present", element_type, shape))
    )


def _model(graph: bytes) -> bytes:
    opset = _field(1, "") + _field(2, 24)  # the first with TensorScatter
    return _field(1, 10) + _field(8, opset) + _field(7, graph)  # IR version 10


def _node(
    operator: str, inputs: tuple[str, ...], output: str, attribute: bytes | None = None
) -> bytes:
    content = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operator)
    return _field(1, content if attribute is None else content + _field(5, attribute))


def _initializer(name: str, value: int) -> bytes:
    """Return the field of an initializer, int64 [1]."""
    data = np.array([value], "<i8").tobytes()
    return _field(5, _field(1, 1) + _field(2, INT64) + _field(8, name) + _field(9, data))


def _value_info(name: str, element_type: int, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, element_type) + _field(2, dims)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """Return a protobuf field: a varint, or bytes with their length before them."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes((*content, value))
