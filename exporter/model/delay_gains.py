"""Evaluate the delay network for every delay, as a table that replaces it in the graph."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np

from ...manifest import MAX_DELAY_TOKENS


def delay_gains(linear1: np.ndarray, linear2: np.ndarray) -> np.ndarray:
    """Return 1 + linear2(gelu(linear1(t(n)))), float32 [31, hidden_size], for n = 0..30 tokens.

    t(n) is the cosine, then the sine of n times 10000^(-2j / hidden_size). The table is exact for
    every delay, so the graph does without the network. It is computed in float64 and rounded to
    float32 even where float16 is stored, so that a float32 artifact yields the same float16 values
    as its checkpoint. Source: MODEL.md, step 6.
    """
    half = linear1.shape[1] // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half)
    angles = np.arange(MAX_DELAY_TOKENS + 1)[:, None] * frequencies
    embedding = np.concatenate((np.cos(angles), np.sin(angles)), 1)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused when stored
        inner = _gelu(embedding @ linear1.astype(np.float64).T)
        return (1 + inner @ linear2.astype(np.float64).T).astype(np.float32)


def _gelu(values: np.ndarray) -> np.ndarray:
    return values / 2 * (1 + np.vectorize(erf)(values / sqrt(2)))
