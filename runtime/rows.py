"""A two-node graph that moves the last rows of a buffer to its front, in the buffer's own memory.

onnxruntime has no call for that on a device, and the runtime has no `onnx` to build a graph with: the few fields of the
file format that it needs are written here. Source: onnx.proto.
"""

from __future__ import annotations

import numpy as np

INT64 = 7  # TensorProto.DataType
_ELEMENT_TYPES = {"float32": 1, "float16": 10}
_INT_ATTRIBUTE = 2  # AttributeProto.AttributeType


def move_rows_model(dtype: np.dtype, capacity: int, keep: int) -> bytes:
    """An ONNX model, `past` [1, heads, capacity, head_dim] -> `present`; bind both to one buffer.

    Slice reads the last `keep` rows into memory of its own before TensorScatter writes them at row 0.
    """
    element_type = _ELEMENT_TYPES[dtype.name]
    shape = (1, "heads", capacity, "head_dim")
    graph = (
        _node("Slice", ("past", "start", "end", "axis"), "kept")
        + _node("TensorScatter", ("past", "kept"), "present", axis=2)
        + _field(2, "move_rows")
        + b"".join(_int64(name, value) for name, value in (("start", capacity - keep), ("end", capacity), ("axis", 2)))
        + _field(11, _value_info("past", element_type, shape))
        + _field(12, _value_info("present", element_type, shape))
    )
    opset = _field(1, "") + _field(2, 24)  # TensorScatter's first
    return _field(1, 10) + _field(8, opset) + _field(7, graph)  # IR version 10


def _node(operator: str, inputs: tuple[str, ...], output: str, **attributes: int) -> bytes:
    content = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operator)
    for name, value in attributes.items():
        content += _field(5, _field(1, name) + _field(3, value) + _field(20, _INT_ATTRIBUTE))
    return _field(1, content)


def _int64(name: str, value: int) -> bytes:
    """An initializer with one value."""
    data = np.array([value], "<i8").tobytes()
    return _field(5, _field(1, 1) + _field(2, INT64) + _field(8, name) + _field(9, data))


def _value_info(name: str, element_type: int, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, element_type) + _field(2, dims)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """One field: a varint, or bytes with their length before them."""
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
