"""The types and ranges that options of `Transcriber` and its methods must have."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..arguments import (
    CALLBACK,
    FLAG,
    INTEGER,
    MODEL,
    PATH,
    TEXT,
    WORDS,
    Kind,
    optional,
    whole,
)
from ..limits import MOST_STREAMS
from .audio.files import AudioSource
from .hotwords import BIAS
from .sampler import MAX_ALTERNATIVES


def _several(value: Any) -> Any:
    if isinstance(value, str | bytes | bytearray | os.PathLike | np.ndarray | AudioSource):
        raise TypeError  # a single recording, not several
    return iter(value)


RECORDINGS = Kind("a list of recordings, or an iterator of them", _several)
AUTO = "auto"


def _batch_size(value: Any) -> Any:
    return value if value == AUTO else whole(1, MOST_STREAMS).take(value)


BATCH_SIZE = Kind(f"1 to {MOST_STREAMS} files, or {AUTO!r}", _batch_size)
DELAY = optional(INTEGER)
LOADING = {
    "model": optional(MODEL),
    "device": TEXT,
    "delay_ms": DELAY,
    "context": whole(64, unit=" positions of 80 ms"),
    "batch_size": BATCH_SIZE,
    "precision": optional(TEXT),
    "threads": optional(INTEGER),
    "blank_guard": FLAG,
    "alternatives": Kind(f"1 to {MAX_ALTERNATIVES}", whole(0, MAX_ALTERNATIVES).take),
    "hotwords": WORDS,
    "hotword_bias": BIAS,
    "vad": optional(PATH),
    "allow_fallback": FLAG,
    "offline": FLAG,
    "on_download": CALLBACK,
}
