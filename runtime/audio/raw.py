"""Raw samples of a pipe as they come."""

from __future__ import annotations

from collections.abc import Iterator
from io import RawIOBase

import numpy as np
import soxr

from ...errors import AudioError, UsageError
from .samples import check_rate

RAW_FORMATS = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
READ_BYTES = 1 << 16  # at most in one read, which returns what is there


def raw_blocks(
    file: RawIOBase, raw_format: str, rate: int, sample_rate: int
) -> Iterator[np.ndarray]:
    """Raw mono samples of a pipe as they come, at the model's rate.

    Args:
        file: unbuffered.
        raw_format: of RAW_FORMATS.
        rate: of the samples, in Hz.
        sample_rate: the model's.

    Raises:
        AudioError: it ends inside a sample; all whole ones were given before.
        UsageError: an unknown format or rate.
    """
    if raw_format not in RAW_FORMATS:
        raise UsageError(f"sample format: expected one of {list(RAW_FORMATS)}, got {raw_format!r}")
    check_rate("rate", rate, UsageError)
    dtype = RAW_FORMATS[raw_format]
    resample = (
        None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
    )
    rest = b""
    while data := file.read(READ_BYTES):
        data = rest + data
        whole = len(data) - len(data) % dtype.itemsize
        values, rest = np.frombuffer(data[:whole], dtype), data[whole:]
        samples = (
            values.astype(np.float32) / (1 << 15)
            if dtype.kind == "i"
            else values.astype(np.float32)
        )
        yield samples if resample is None else resample.resample_chunk(samples)
    if resample is not None:
        yield resample.resample_chunk(np.zeros(0, np.float32), last=True)
    if rest:
        raise AudioError(
            f"the input ended inside a sample: {len(rest)} of {dtype.itemsize} bytes ({raw_format})"
        )
