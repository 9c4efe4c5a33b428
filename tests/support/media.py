"""Recordings as bytes, in the containers and codecs of PyAV."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np

from .sounds import RATE


def contained(
    container: str,
    codec: str,
    samples: np.ndarray,
    rate: int = RATE,
    pause: tuple[float, float] = (0, 0),
    frame_size: int = 1024,
    options: dict[str, str] | None = None,
) -> bytes:
    """Return samples, float32 [n] at RATE, as a file; its clock goes on while it pauses.

    Args:
        container: FFmpeg's name of it.
        codec: FFmpeg's name of it.
        samples: between -1 and 1.
        rate: of the file, in Hz.
        pause: after how many seconds, and how long.
        frame_size: samples a packet, where the codec takes any number.
        options: of the container.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as opened:
        output: Any = opened
        track = output.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype("<i2"), "s16", "mono")
        frame.sample_rate = RATE
        resampler, fifo = av.AudioResampler(track.format, "mono", rate), av.AudioFifo()
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            fifo.write(part)
        done = 0
        for part in fifo.read_many(track.codec_context.frame_size or frame_size, partial=True):
            later = round(pause[1] * rate) if done >= pause[0] * rate else 0
            part.pts, part.time_base = done + later, Fraction(1, rate)
            done += part.samples
            output.mux(track.encode(part))
        output.mux(track.encode())
    return file.getvalue()
