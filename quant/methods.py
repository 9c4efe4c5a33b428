"""Quantisation methods, a registry by name.

A method maps float32 blocks [..., block_size] to codes (uint8, same shape), scales (float32 [...], each a float16
value, so that float16 and float32 artifacts hold the same weights) and zero points (uint8 [...]) or None where the
zero point is the middle code.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

Quantized = tuple[np.ndarray, np.ndarray, np.ndarray | None]
Method = Callable[[np.ndarray, int], Quantized]


def rtn_symmetric(blocks: np.ndarray, bits: int) -> Quantized:
    """Round to nearest; the value of largest magnitude becomes the lowest code, as in ggml's Q4_0."""
    high, low = _extremes(blocks)
    middle = 1 << (bits - 1)
    scales = _as_float16(np.where(high > -low, high, low) / np.float32(-middle))
    return _encode(blocks, scales, np.float32(middle), 2 * middle - 1), scales, None


def rtn_asymmetric(blocks: np.ndarray, bits: int) -> Quantized:
    """Round to nearest between the block's extremes (zero included), with a zero point."""
    high, low = _extremes(blocks)
    top = (1 << bits) - 1
    low = np.minimum(low, 0)
    scales = _as_float16((np.maximum(high, 0) - low) / np.float32(top))
    zero_points = np.clip(np.rint(-low * _invert(scales)), 0, top).astype(np.float32)
    return _encode(blocks, scales, zero_points[..., None], top), scales, zero_points.astype(np.uint8)


METHODS: dict[str, Method] = {
    "rtn_symmetric": rtn_symmetric,
    "rtn_asymmetric": rtn_asymmetric,
    "as_stored": rtn_symmetric,  # where a GGUF holds no such blocks (quant/gguf.py)
}
HAS_ZERO_POINTS = {"rtn_symmetric": False, "rtn_asymmetric": True, "as_stored": False}


def _extremes(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = torch.from_numpy(blocks)  # torch reduces a short last axis about four times faster than NumPy
    return values.amax(-1).numpy(), values.amin(-1).numpy()


def _as_float16(scales: np.ndarray) -> np.ndarray:
    return scales.astype(np.float16).astype(np.float32)


def _invert(scales: np.ndarray) -> np.ndarray:
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)


def _encode(blocks: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | np.float32, top: int) -> np.ndarray:
    codes = np.multiply(blocks, _invert(scales)[..., None])
    codes += zero_points + np.float32(0.5)  # truncation below then rounds to nearest
    np.clip(codes, 0, top + np.float32(0.5), out=codes)
    return codes.astype(np.uint8)
