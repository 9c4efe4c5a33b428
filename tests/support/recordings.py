"""Recordings for the engine, and what each of them gives alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from reference import toy

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime import recordings
from voxtral_onnx.runtime import transcriber as transcribing
from voxtral_onnx.runtime.device.base import Device
from voxtral_onnx.runtime.pieces import cutter, silence
from voxtral_onnx.runtime.transcript import Transcript

Found = TypeVar("Found")
RATE = 16000


def babble(length: int) -> np.ndarray:
    """Return so many samples, of which no other length is a beginning."""
    return toy.babble(max(1.0, length / RATE), seed=length)[:length]


def alone(transcriber: Transcriber, samples, delay_ms: int | None = None) -> tuple[int, ...]:
    """Return the tokens of a live stream, which runs one position a call."""
    stream = transcriber.stream(delay_ms)
    return tuple(token.token_id for token in stream.feed(samples) + stream.finish())


def by_length(transcripts: Iterable[Transcript]) -> list[tuple[int, tuple[int, ...]]]:
    """Return number of samples and tokens of each, sorted."""
    return sorted((round(RATE * each.duration), each.token_ids) for each in transcripts)


def transcriber_on(device: Device, monkeypatch, artifact, **options) -> Transcriber:
    """Return a transcriber on a device."""
    monkeypatch.setattr(transcribing, "open_device", lambda *arguments, **others: device)
    return Transcriber(artifact, device.name.partition(":")[0], **options)


def cut_shorter(monkeypatch, *, beyond: float = 2.0, aim: float = 2.0, least: float = 1.0) -> None:
    """Let recordings be cut that are longer than `beyond` seconds, in pieces of about `aim`."""
    monkeypatch.setattr(recordings, "LONG_SECONDS", beyond)
    monkeypatch.setattr(silence, "NEIGHBOURHOOD_SECONDS", 3)
    for name, seconds in {
        "SHORTEST_AIM_SECONDS": aim,
        "LONGEST_AIM_SECONDS": 10 * aim,
        "LEAST_SLACK_SECONDS": aim / 3,
        "LONGEST_SECONDS": 12 * aim,
        "LEAST_SECONDS": least,
        "WHOLE_AFTER_SECONDS": 30 * aim,
    }.items():
        monkeypatch.setattr(cutter, name, seconds)


def with_silences(parts: Iterable[np.ndarray], seconds: float = 1.2) -> np.ndarray:
    """Return sounds one after the other, with faint noise between them and at both ends."""
    rng, count = np.random.default_rng(0), int(seconds * RATE)
    joined = []
    for part in parts:
        joined += [1e-4 * rng.standard_normal(count).astype(np.float32), part]
    return np.concatenate((*joined, joined[0]))


def within_time(work: Callable[[], Found], seconds: float = 60.0) -> Found:
    """Return what a function returns, or fail if it takes so long that it must be hanging."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(seconds)
    finally:
        pool.shutdown(wait=False)
