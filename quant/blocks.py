"""Quantise rows of a weight to 4- or 8-bit blocks along K, and dequantise them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import QuantizationError
from .methods import METHODS, as_float16, invert
from .packing import pack, unpack
from .recipe import Rule


@dataclass(frozen=True, slots=True)
class Blocks:
    """A quantised weight [N, K] in MatMulNBits' layout."""

    packed: np.ndarray  # uint8 [N, num_blocks, block_size * bits / 8]
    scales: np.ndarray  # float32 [N, num_blocks]
    # uint8 [N, ceil(num_blocks * bits / 8)]; None for the middle code everywhere
    zero_points: np.ndarray | None


def quantize_blockwise(weight: np.ndarray, rule: Rule, name: str = "weight") -> Blocks:
    """Quantise each row of `weight` in blocks along K.

    Args:
        weight: float32 [N, K]; where K does not divide by the block size the tail is zero-padded.
        rule: bits, block size and method.
        name: for messages.

    Raises:
        QuantizationError: `weight` is not 2-D, has a non-finite value, or has one that needs a
            scale beyond float16's range.

    Source: ONNX Runtime contrib operator MatMulNBits, inputs B, scales and zero_points.
    """
    # Divide into blocks
    if weight.ndim != 2:
        raise QuantizationError(f"{name}: expected 2 dimensions, got {list(weight.shape)}")
    if not np.isfinite(weight).all():
        raise QuantizationError(
            f"{name}: has non-finite values; the checkpoint is damaged or not a trained model"
        )
    if tail := -weight.shape[1] % rule.block_size:
        weight = np.pad(weight, ((0, 0), (0, tail)))
    blocks = weight.reshape(weight.shape[0], -1, rule.block_size)

    # Choose scales and zero points
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite scales are refused below
        scales, zero_points = METHODS[rule.method].choose(blocks, rule.bits)
        scales = as_float16(scales)
    _check_grid(name, rule, blocks, scales, zero_points)

    # Round, by adding a half and truncating
    middle, top = 1 << (rule.bits - 1), (1 << rule.bits) - 1
    codes = np.multiply(blocks, invert(scales)[..., None])
    codes += (
        np.float32(middle + 0.5)
        if zero_points is None
        else (zero_points + np.float32(0.5))[..., None]
    )
    np.clip(codes, 0, top + np.float32(0.5), out=codes)
    zeros = None if zero_points is None else pack(zero_points.astype(np.uint8), rule.bits)
    return Blocks(pack(codes.astype(np.uint8), rule.bits), scales, zeros)


def _check_grid(
    name: str, rule: Rule, blocks: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | None
) -> None:
    """Check that a method's scales and zero points have the shapes and values they must have."""
    for what, array in (("scales", scales), ("zero points", zero_points)):
        if array is not None and array.shape != blocks.shape[:-1]:
            raise QuantizationError(
                f"{name}: method {rule.method}: {what}: expected {list(blocks.shape[:-1])}, got "
                f"{list(array.shape)}"
            )
    if not np.isfinite(scales).all():
        raise QuantizationError(
            f"{name}: values up to {np.abs(blocks).max():.3g} need a scale beyond float16's range"
        )
    if (zero_points is not None) != rule.has_zero_points:
        expected, got = ("some", "none") if rule.has_zero_points else ("none", "some")
        raise QuantizationError(
            f"{name}: method {rule.method}: zero points: expected {expected}, got {got}"
        )
    top = (1 << rule.bits) - 1
    if (
        zero_points is not None
        and not (
            (zero_points >= 0) & (zero_points <= top) & (zero_points == np.rint(zero_points))
        ).all()
    ):
        raise QuantizationError(
            f"{name}: method {rule.method}: zero points: expected whole codes from 0 to {top}"
        )


def dequantize_blockwise(blocks: Blocks, rule: Rule, num_columns: int) -> np.ndarray:
    """Dequantise blocks to float32 [N, num_columns], without the padding of the last block."""
    num_blocks = blocks.scales.shape[1]
    codes = unpack(blocks.packed, rule.bits, rule.block_size).astype(np.float32)
    middle = np.float32(1 << (rule.bits - 1))
    zeros = (
        middle
        if blocks.zero_points is None
        else unpack(blocks.zero_points, rule.bits, num_blocks)[..., None]
    )
    values = (codes - zeros) * blocks.scales[..., None]
    return values.reshape(len(codes), -1)[:, :num_columns]
