"""Repack GGUF's Q4_0 and Q8_0 blocks for MatMulNBits.

Codes and scales stay the same, only their order changes. A block is a row's 32 consecutive values
under one float16 scale d; a value is (code - middle) * d.

    Q4_0, 18 bytes            d d [16<<4 | 0][17<<4 | 1] ... [31<<4 | 15]
    MatMulNBits, 4 bits           [ 1<<4 | 0][ 3<<4 | 2] ... [31<<4 | 30]      middle 8
    Q8_0, 34 bytes            d d [0][1] ... [31]    signed
    MatMulNBits, 8 bits           [0][1] ... [31]    128 more, unsigned        middle 128

Source: ggml's `block_q4_0`, `block_q8_0`; ONNX Runtime contrib operator MatMulNBits.
"""

from __future__ import annotations

import numpy as np

from ..errors import QuantizationError
from .blocks import Blocks

BLOCK_SIZE = 32
TYPES = {4: "Q4_0", 8: "Q8_0"}  # by bits


def repack(rows: np.ndarray, bits: int, name: str = "weight") -> Blocks:
    """Repack rows of Q4_0 (bits 4) or Q8_0 (bits 8) to MatMulNBits' layout.

    Args:
        rows: uint8 [N, bytes of a row].
        bits: 4 or 8.
        name: for messages.

    Raises:
        QuantizationError: a scale is not finite.
    """
    scales, stored = split_blocks(rows, bits)
    if not np.isfinite(scales).all():
        raise QuantizationError(
            f"{name}: has non-finite scales; the GGUF is damaged, or its shards are out of order"
        )
    if bits == 8:
        packed = stored ^ 0x80
    else:
        # Two bytes have the codes i, i + 16, i + 1, i + 17, from the lowest nibble on
        pairs = np.ascontiguousarray(stored).view(np.uint16)
        low = (pairs & 0x000F) | (pairs >> 4 & 0x00F0)
        high = (pairs >> 4 & 0x000F) | (pairs >> 8 & 0x00F0)
        packed = np.concatenate((low, high), -1).astype(np.uint8)
    return Blocks(packed, scales.astype(np.float32), None)


def split_blocks(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows of blocks into their scales and the bytes of their codes.

    Scales are float16 [N, num_blocks], the bytes uint8 [N, num_blocks, 4 * bits].
    """
    blocks = np.ascontiguousarray(rows).reshape(len(rows), -1, 2 + 4 * bits)
    return np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0], blocks[..., 2:]


def decode_blocks(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales of rows of blocks and their codes, from 0 up, in the order of the values.

    Scales are float32 [N, num_blocks], codes uint8 [N, num_blocks, 32].
    """
    scales, stored = split_blocks(rows, bits)
    codes = stored ^ 0x80 if bits == 8 else np.concatenate((stored & 15, stored >> 4), -1)
    return scales.astype(np.float32), codes
