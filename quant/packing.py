"""Bit layouts of MatMulNBits.

4 bits, two codes a byte, the even one low:

    code    0    1    2    3   ...  31
    byte   [ 1<<4 | 0 ][ 3<<4 | 2 ] ... [31<<4 | 30]      a block of 32 is 16 bytes

8 bits, one code a byte. Zero points of a row are packed the same way, an odd last one with a zero
above it. Source: ONNX Runtime contrib operator MatMulNBits, inputs B and zero_points.
"""

from __future__ import annotations

import numpy as np


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes along the last axis: uint8 [..., n] -> uint8 [..., ceil(n * bits / 8)]."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate((codes, np.zeros((*codes.shape[:-1], 1), np.uint8)), -1)
    # Little-endian, so the even code is the low byte
    pairs = np.ascontiguousarray(codes).view(np.uint16)
    return (pairs | (pairs >> 4)).astype(np.uint8)


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpack `count` codes along the last axis: uint8 [..., bytes] -> uint8 [..., count]."""
    if bits == 8:
        return packed[..., :count]
    codes = np.stack((packed & 15, packed >> 4), -1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]
