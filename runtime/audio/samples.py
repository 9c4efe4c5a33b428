"""Checks of arrays of samples, of rates and of channels."""

from __future__ import annotations

import numpy as np

from ...errors import AudioError, VoxtralOnnxError
from ...limits import FASTEST_RATE, LARGEST_SAMPLE, MOST_CHANNELS, SLOWEST_RATE


def check_rate(what: str, rate: int, error: type[VoxtralOnnxError] = AudioError) -> None:
    """Refuse a sample rate that no sound has.

    Raises:
        error: out of range.
    """
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise error(f"{what}: expected {SLOWEST_RATE} to {FASTEST_RATE} Hz, got {rate}")


def check_channels(what: str, channels: int, error: type[VoxtralOnnxError] = AudioError) -> None:
    """Refuse a number of channels that no recording has.

    Raises:
        error: out of range.
    """
    if not 1 <= channels <= MOST_CHANNELS:
        raise error(f"{what}: expected 1 to {MOST_CHANNELS} channels, got {channels}")


def check_samples(samples: np.ndarray) -> np.ndarray:
    """The samples as float32 [n].

    Raises:
        AudioError: another shape, an integer type, or a value that is no sound.
    """
    array = np.asarray(samples)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            f"samples: expected float [n] with full scale 1, got {array.dtype} "
            f"{list(array.shape)}; average the channels and divide integers by their full scale"
        )
    bad = np.flatnonzero(are_damaged(array))
    if len(bad):
        what = describe_damage(float(array[bad[0]]))
        raise AudioError(f"samples: sample {bad[0]} {what}: the recording is damaged")
    return array.astype(np.float32, copy=False)


def are_damaged(samples: np.ndarray) -> np.ndarray:
    """Return which samples are not finite, or larger than any recording's."""
    # Compared as float64, as float16 does not hold the bound; not a number compares as False
    return ~(np.abs(samples) <= np.float64(LARGEST_SAMPLE))


def describe_damage(sample: float) -> str:
    """Say what is wrong with a damaged sample."""
    if np.isfinite(sample):
        return f"is {sample:g}, where full scale is 1"
    return "is not a finite number"
