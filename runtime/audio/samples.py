"""Checks of arrays of samples."""

from __future__ import annotations

import numpy as np

from ...errors import AudioError


def check_samples(samples: np.ndarray) -> np.ndarray:
    """The samples as float32 [n].

    Raises:
        AudioError: another shape, an integer type, or a non-finite value.
    """
    array = np.asarray(samples)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            f"samples: expected float [n] with full scale 1, got {array.dtype} "
            f"{list(array.shape)}; average the channels and divide integers by their full scale"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise AudioError(f"samples: sample {bad[0]} is {array[bad[0]]}: the recording is damaged")
    return array.astype(np.float32, copy=False)
