"""Quantisation methods, registered by name.

A method takes float32 blocks [..., block_size] and the number of bits, and chooses a grid for each
block: scales [...] and zero points [...], or None instead of these where the middle code means
zero. `quantize_blockwise` then rounds the scales to float16 and every value to its nearest code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

# Scales float32 [...], zero points: float32 [...], whole codes
Grid = tuple[np.ndarray, np.ndarray | None]
Choice = Callable[[np.ndarray, int], Grid]

# Shares of a block's range that are tried; twice as many would lower the error by another 0.2 %
SHARES = (1.0, 1.08, 0.95, 0.89)
TILE = 256  # blocks transposed at a time, so that they stay in a processor's first cache


@dataclass(frozen=True, slots=True)
class Method:
    """A registered quantisation method."""

    choose: Choice
    has_zero_points: bool
    # Roughly, for bfloat16 weights on one core; bench/quant.py measures it
    seconds_per_gb: float


METHODS: dict[str, Method] = {}


def method(*, has_zero_points: bool, seconds_per_gb: float = 1.5) -> Callable[[Choice], Choice]:
    """Register the decorated function, so that recipes can use it by its name."""

    def register(choose: Choice) -> Choice:
        METHODS[choose.__name__] = Method(choose, has_zero_points, seconds_per_gb)
        return choose

    return register


@method(has_zero_points=False)
def rtn_symmetric(blocks: np.ndarray, bits: int) -> Grid:
    """Round to nearest; the value of largest magnitude gets the lowest code, as in ggml's Q4_0."""
    return _symmetric(*extremes(blocks), bits)


@method(has_zero_points=False)
def as_stored(blocks: np.ndarray, bits: int) -> Grid:
    """Keep the blocks of a source bit by bit (quant/kept.py), else quantise by `rtn_symmetric`."""
    return rtn_symmetric(blocks, bits)


@method(has_zero_points=True)
def rtn_asymmetric(blocks: np.ndarray, bits: int) -> Grid:
    """Round to nearest between the block's extremes, zero included, with a zero point."""
    return _asymmetric(*extremes(blocks), bits)


@method(has_zero_points=False, seconds_per_gb=8)
def refit_symmetric(blocks: np.ndarray, bits: int) -> Grid:
    """Fit the scale to the codes of several ranges by least squares, and take the best."""
    return _fit(blocks, bits, _symmetric)


@method(has_zero_points=True, seconds_per_gb=8)
def refit_asymmetric(blocks: np.ndarray, bits: int) -> Grid:
    """Fit scale and zero point to the codes of several ranges by least squares; take the best."""
    return _fit(blocks, bits, _asymmetric)


def as_float16(scales: np.ndarray) -> np.ndarray:
    """Round scales to float16 and return them as float32.

    Float16 and float32 artifacts thus have the same weights.
    """
    return scales.astype(np.float16).astype(np.float32)


def invert(scales: np.ndarray) -> np.ndarray:
    """Return 1 / scales, 0 where a scale is 0."""
    with np.errstate(divide="ignore"):
        inverse = np.float32(1) / scales
    inverse[scales == 0] = 0
    return inverse


def extremes(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest and the lowest value of each block, whose size is a power of two."""
    return _reduce(np.maximum, blocks), _reduce(np.minimum, blocks)


def _reduce(choose: np.ufunc, blocks: np.ndarray) -> np.ndarray:
    # Halving neighbours of the flat array is eight times as fast as NumPy's reduction of a short
    # last axis
    values = blocks.reshape(-1)
    while values.size > blocks.size // blocks.shape[-1]:
        values = choose(values[::2], values[1::2])
    return _one_zero(values).reshape(blocks.shape[:-1])


def _one_zero(values: np.ndarray) -> np.ndarray:
    # Which of 0.0 and -0.0 is higher depends on the processor, and the sign would be stored
    return values + np.float32(0)


def _symmetric(high: np.ndarray, low: np.ndarray, bits: int, share: float = 1.0) -> Grid:
    return as_float16(
        _choose(high > -low, high, low) * np.float32(share / -(1 << (bits - 1)))
    ), None


def _asymmetric(high: np.ndarray, low: np.ndarray, bits: int, share: float = 1.0) -> Grid:
    top = (1 << bits) - 1
    high, low = np.maximum(high, 0) * np.float32(share), np.minimum(low, 0) * np.float32(share)
    scales = as_float16((high - low) / np.float32(top))
    return scales, np.clip(np.rint(-low * invert(scales)), 0, np.float32(top))


def _fit(blocks: np.ndarray, bits: int, start: Callable[..., Grid]) -> Grid:
    """Return the grid of least squared error among some candidates.

    Candidates are the grid of rounding to nearest, and for each of SHARES the least-squares fit to
    the codes that this share of the range gives.

    For given codes q, values x are fitted by d * (q - z). A block's sum of squared errors is then
    its sum of x * x less the gain d * (2 * sum((q - z) * x) - d * sum((q - z) * (q - z))), at the
    float16 scale that will be stored. As rounding to nearest is a candidate, no block gets worse.

    The axis of a block comes first here: whole arrays are added, which is fast, and one after the
    other, which gives the same bytes on every machine and for every slice of a weight.
    """
    middle, count = np.float32(1 << (bits - 1)), np.float32(blocks.shape[-1])
    x = _block_axis_first(blocks)  # [block_size, ...]
    q = np.empty_like(x)
    high, low, sum_x = _one_zero(x.max(0)), _one_zero(x.min(0)), _sum(x)
    best: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # gain, d, z
    for share in SHARES:
        # Round to the grid of this share; codes count from the middle one
        d, zero_points = start(high, low, bits, share)
        z = np.zeros_like(d) if zero_points is None else zero_points - middle
        np.multiply(x, invert(d), out=q)
        q += z
        np.clip(np.rint(q, out=q), -middle, middle - 1, out=q)

        # Compute the sums that gains are made of
        sum_qx = _sum(map(np.multiply, q, x))
        # Sums of integers below 2^24, which are exact in any order
        sum_q, sum_qq = q.sum(0), np.einsum("i...,i...->...", q, q)
        if best is None:
            best = _gain(d, sum_qx - z * sum_x, sum_qq - z * (2 * sum_q - count * z)), d, z

        # Fit zero point and scale to the codes
        if zero_points is not None:
            slope = (count * sum_qx - sum_q * sum_x) * invert(count * sum_qq - sum_q * sum_q)
            z = np.clip(np.rint((sum_q - sum_x * invert(slope)) / count), -middle, middle - 1)
        cross, square = sum_qx - z * sum_x, sum_qq - z * (2 * sum_q - count * z)
        d = as_float16(cross * invert(square))
        gain = _gain(d, cross, square)

        # Take them for the blocks that they improve
        better = gain > best[0]
        best = (
            _choose(better, gain, best[0]),
            _choose(better, d, best[1]),
            _choose(better, z, best[2]),
        )
    assert best is not None
    _, d, z = best
    return d, None if start is _symmetric else z + middle


def _block_axis_first(blocks: np.ndarray) -> np.ndarray:
    """Return a contiguous copy [block_size, ...] of blocks [..., block_size]."""
    rows = blocks.reshape(-1, blocks.shape[-1])
    copy = np.empty(rows.shape[::-1], np.float32)
    for start in range(0, len(rows), TILE):
        copy[:, start : start + TILE] = rows[start : start + TILE].T
    return copy.reshape(-1, *blocks.shape[:-1])


def _gain(scales: np.ndarray, cross: np.ndarray, square: np.ndarray) -> np.ndarray:
    return scales * (2 * cross - scales * square)


def _choose(is_first: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return np.where of float32 arrays, without a branch that processors mispredict."""
    bits = first.view(np.uint32) ^ second.view(np.uint32)
    bits *= is_first
    bits ^= second.view(np.uint32)
    return bits.view(np.float32)


def _sum(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Return the sum of some rows, added one after the other."""
    rows = iter(rows)
    total = next(rows) + next(rows)
    for row in rows:
        total += row
    return total
