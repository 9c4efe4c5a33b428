"""Recordings as bytes, in the formats of libsndfile."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from .commands import CLIP

RATE = 16000
SAMPLES: np.ndarray = soundfile.read(CLIP, dtype="float32")[0]
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav8": ("WAV", "PCM_U8"),
    "float": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def encoded(kind: str, samples: np.ndarray = SAMPLES, rate: int = RATE) -> bytes:
    """Return a file of one of the formats."""
    container, codec = FORMATS[kind]
    soundfile.write(file := io.BytesIO(), samples, rate, codec, format=container)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """Return what libsndfile makes of a file that holds one recording."""
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]
