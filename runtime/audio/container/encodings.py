"""Encodings of raw samples, which become floats of full scale 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _expand_mulaw(values: np.ndarray) -> np.ndarray:
    """Convert G.711's mu-law codes, uint8 [n], to float32 [n]."""
    codes = ~values
    steps = ((codes & 15).astype(np.int32) << 3) + 132 << (codes >> 4 & 7).astype(np.int32)
    return np.where(codes & 128, 132 - steps, steps - 132).astype(np.float32) / (1 << 15)


def _expand_alaw(values: np.ndarray) -> np.ndarray:
    """Convert G.711's A-law codes, uint8 [n], to float32 [n]."""
    codes = values ^ 0x55
    steps, power = (codes & 15).astype(np.int32) * 16 + 8, (codes >> 4 & 7).astype(np.int32)
    steps = np.where(power > 0, steps + 256 << np.maximum(power, 1) - 1, steps)
    return np.where(codes & 128, steps, -steps).astype(np.float32) / (1 << 15)


def _from_24_bits(values: np.ndarray) -> np.ndarray:
    """Convert little-endian integers, uint8 [n, 3], to float32 [n]."""
    wide = np.zeros((len(values), 4), np.uint8)
    wide[:, 1:] = values
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)


def _from_integers(bits: int, zero: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that converts integers of so many bits to float32, full scale 1."""
    return lambda values: (values.astype(np.float32) - zero) / np.float32(1 << bits - 1)


def _from_floats(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


# By name: the type of a sample, and the function that converts samples to float32
_ENCODINGS: dict[str, tuple[np.dtype, Callable[[np.ndarray], np.ndarray]]] = {
    "s16le": (np.dtype("<i2"), _from_integers(16)),
    "f32le": (np.dtype("<f4"), _from_floats),
    "mulaw": (np.dtype("u1"), _expand_mulaw),
    "alaw": (np.dtype("u1"), _expand_alaw),
    "u8": (np.dtype("u1"), _from_integers(8, 128)),
    "s24le": (np.dtype(("u1", 3)), _from_24_bits),
    "s32le": (np.dtype("<i4"), _from_integers(32)),
    "f16le": (np.dtype("<f2"), _from_floats),
    "f64le": (np.dtype("<f8"), _from_floats),
}
ENCODINGS = tuple(_ENCODINGS)


def sample_bytes(encoding: str) -> int:
    """Return the bytes of a sample in one of ENCODINGS."""
    return _ENCODINGS[encoding][0].itemsize


def floats_of(encoding: str, data: bytes) -> np.ndarray:
    """Return samples, bytes in one of ENCODINGS that are whole ones, as float32 [n]."""
    dtype, to_float = _ENCODINGS[encoding]
    return to_float(np.frombuffer(data, dtype))
