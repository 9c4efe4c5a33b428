"""Sound as clients of live speech send it."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr


def sound(clip: Path, encoding: str = "PCM_16", rate: int = 24_000) -> bytes:
    """The raw samples of a clip, as libsndfile encodes them: PCM_16, ULAW or ALAW."""
    samples, own = soundfile.read(clip, dtype="float32")
    return encoded(soxr.resample(samples, own, rate), encoding)


def encoded(samples: np.ndarray, encoding: str = "PCM_16") -> bytes:
    """Samples, float [n], as raw ones of an encoding."""
    with BytesIO() as file:
        soundfile.write(file, samples, 8000, format="RAW", subtype=encoding, endian="LITTLE")
        return file.getvalue()


def pieces(content: bytes, size: int) -> list[str]:
    """Sound in base64, in pieces of so many bytes."""
    return [
        base64.b64encode(content[first : first + size]).decode()
        for first in range(0, len(content), size)
    ]
