"""The delay's network as a table of its values for every delay."""

from __future__ import annotations

import numpy as np
import torch

from ...manifest import MAX_DELAY_TOKENS


def delay_gains(linear1: np.ndarray, linear2: np.ndarray) -> np.ndarray:
    """Return 1 + linear2(gelu(linear1(t(n)))), float32 [31, hidden_size], for n = 0..30 tokens.

    t(n) is the cosine, then the sine of n times 10000^(-2j / hidden_size). Exact for every delay,
    so the network itself leaves the graph. Computed in float64, and rounded to float32 also where
    float16 is stored: a float32 artifact then holds what its checkpoint gives. Source: MODEL.md
    step 6.
    """
    half = linear1.shape[1] // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half)
    angles = np.arange(MAX_DELAY_TOKENS + 1)[:, None] * frequencies
    embedding = torch.from_numpy(np.concatenate((np.cos(angles), np.sin(angles)), 1))
    inner = torch.nn.functional.gelu(embedding @ torch.from_numpy(linear1).double().T)
    return (1 + inner @ torch.from_numpy(linear2).double().T).float().numpy()
