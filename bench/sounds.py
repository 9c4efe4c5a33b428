"""WAV files to measure with, which take no time to make and no text to be right about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 16000  # Hz
SPEECH_SECONDS, SILENCE_SECONDS = 18.8, 1.2  # in turns, in a long file


def write_files(folder: Path, count: int, seconds: float) -> list[Path]:
    """Write WAV files of noise and a tone, and return their paths; those that exist are kept.

    Each file has other noise and another tone, and is named after its number and its length.
    """
    rng, size = np.random.default_rng(0), round(seconds * RATE)
    noise = (1500 * rng.standard_normal(2 * size)).astype(np.int16)
    time = np.arange(size) / RATE
    paths = [folder / f"{seconds:g}s-{number:05}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            start, pitch = number * 7919 % size, 110 * 2 ** (number % 36 / 12)
            tone = (2000 * np.sin(2 * np.pi * pitch * time)).astype(np.int16)
            soundfile.write(path, noise[start : start + size] + tone, RATE, "PCM_16")
    return paths


def write_long_file(folder: Path, seconds: float) -> Path:
    """Write a WAV file in which noise and silence take turns, and return its path."""
    path = folder / f"long-{seconds:g}s.wav"
    if not path.exists():
        rng, left = np.random.default_rng(1), round(seconds * RATE)
        noise = (2000 * rng.standard_normal(2 * RATE * 20)).astype(np.int16)
        silence = np.zeros(round(SILENCE_SECONDS * RATE), np.int16)
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            while left > 0:
                start = rng.integers(0, len(noise) // 2)
                speech = noise[start : start + round(SPEECH_SECONDS * RATE)]
                turn = np.concatenate((speech, silence))[:left]
                file.write(turn)
                left -= len(turn)
    return path
