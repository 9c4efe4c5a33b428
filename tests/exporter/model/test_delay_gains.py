"""The table of delay gains, against torch and against the definition in plain Python."""

from __future__ import annotations

from math import cos, erf, fsum, sin, sqrt

import numpy as np
import pytest
import torch
from support.parity import assert_parity

from voxtral_onnx.assets import TINY
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.model.delay_gains import delay_gains

ROUNDING = 2.0**-24  # of float64 sums to float32, relative


def random_network(hidden_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights in bfloat16's values and of the released checkpoint's size."""
    rng = np.random.default_rng(seed)
    weights = (
        rng.standard_normal((32, hidden_size)) * (0.3 * hidden_size**-0.5),
        rng.standard_normal((hidden_size, 32)) * (0.3 * 32**-0.5),
    )
    linear1, linear2 = (
        (weight.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
        for weight in weights
    )
    return linear1, linear2


def tiny_networks() -> list[tuple[np.ndarray, np.ndarray]]:
    tensors = open_checkpoint(TINY).tensors
    return [
        (tensor.rows(), tensors[name.replace("linear1", "linear2")].rows())
        for name, tensor in tensors.items()
        if name.endswith("ada_rms_norm.linear1.weight")
    ]


def by_torch(linear1: np.ndarray, linear2: np.ndarray) -> np.ndarray:
    half = linear1.shape[1] // 2
    angles = np.arange(31)[:, None] * np.exp(-np.log(10000.0) * np.arange(half) / half)
    embedding = torch.from_numpy(np.concatenate((np.cos(angles), np.sin(angles)), 1))
    inner = torch.nn.functional.gelu(embedding @ torch.from_numpy(linear1).double().T)
    return (1 + inner @ torch.from_numpy(linear2).double().T).float().numpy()


def by_definition(linear1: list[list[float]], linear2: list[list[float]]) -> list[list[float]]:
    """The table in exact sums, one number after the other."""
    half = len(linear1[0]) // 2
    rows = []
    for tokens in range(31):
        angles = [tokens * 10000 ** (-2 * j / (2 * half)) for j in range(half)]
        embedding = [*map(cos, angles), *map(sin, angles)]
        inner = [fsum(w * e for w, e in zip(row, embedding, strict=True)) for row in linear1]
        gelu = [x * (1 + erf(x / sqrt(2))) / 2 for x in inner]
        rows.append([1 + fsum(w * g for w, g in zip(row, gelu, strict=True)) for row in linear2])
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_no_value_differs_from_torchs(seed):
    network = random_network(3072, seed)
    assert_parity(delay_gains(*network), by_torch(*network), atol=0, what="gains")


def test_no_value_of_tiny_differs_from_torchs():
    networks = tiny_networks()
    assert networks
    for network in networks:
        assert_parity(delay_gains(*network), by_torch(*network), atol=0, what="gains")


def test_gains_are_those_of_the_definition():
    network = random_network(64, 0)
    expected = np.array(by_definition(*(weight.tolist() for weight in network)))
    gains = delay_gains(*network)
    assert_parity(gains.astype(np.float64), expected, atol=0, rtol=ROUNDING, what="gains")
    assert gains.std(0).max() > 0.01  # they depend on the delay
