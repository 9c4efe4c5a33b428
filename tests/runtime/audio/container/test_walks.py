"""Recordings of any kind behind recordings of any other: all of them are heard."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
from support.media import contained
from support.sounds import FORMATS, RATE, SAMPLES, encoded

from voxtral_onnx.runtime.audio.container.starts import next_start
from voxtral_onnx.runtime.audio.container.view import View
from voxtral_onnx.runtime.audio.files import open_audio

# By PyAV: codec, container, rate
MEDIA = {
    "adts": ("aac", "adts", 16000),
    "latm": ("aac", "latm", 16000),
    "mp2": ("mp2", "mp2", 16000),
    "ac3": ("ac3", "ac3", 48000),
    "eac3": ("eac3", "eac3", 48000),
    "amr": ("libopencore_amrnb", "amr", 8000),
    "ts": ("aac", "mpegts", 16000),
    "m2ts": ("ac3", "mpegts", 48000),
    "mpeg": ("mp2", "mpeg", 16000),
    "vob": ("ac3", "vob", 48000),
    "mp4": ("aac", "mp4", 16000),
    "webm": ("libopus", "webm", 48000),
    "avi": ("pcm_s16le", "avi", 16000),
    "flv": ("aac", "flv", 44100),
    "tta": ("tta", "tta", 16000),
    "wv": ("wavpack", "wv", 16000),
}
OPTIONS = {"m2ts": {"mpegts_m2ts_mode": "1"}}
SINGLE = [*MEDIA, "mp3", "flac", "wav", "aiff", "caf"]
PAIRS = [(kind, kind) for kind in MEDIA]
PAIRS += [(kind, SINGLE[number - shift]) for shift in (1, 5) for number, kind in enumerate(SINGLE)]


@cache
def recording(kind: str, is_reversed: bool = False) -> bytes:
    """Return the clip, or the clip from its end to its beginning, as a file of a kind."""
    samples = SAMPLES[::-1].copy() if is_reversed else SAMPLES
    if kind in FORMATS:
        return encoded(kind, samples)
    codec, container, rate = MEDIA[kind]
    return contained(container, codec, samples, rate, options=OPTIONS.get(kind))


def likeness(samples: np.ndarray, expected: np.ndarray) -> float:
    """Return how much is like something, wherever in the samples it stands."""
    size = 1 << (len(samples) + len(expected)).bit_length()
    spectra = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(expected, size))
    return float(np.fft.irfft(spectra, size).max() / np.linalg.norm(expected) ** 2)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_joined(first, second, tmp_path):
    (tmp_path / "sound").write_bytes(recording(first) + recording(second, True))
    source = open_audio(tmp_path / "sound", RATE)
    assert source.losses == ()
    assert abs(source.duration - 2 * len(SAMPLES) / RATE) < 0.3
    samples = np.concatenate(list(source.blocks()))
    half = len(samples) // 2
    for part, expected in ((samples[:half], SAMPLES), (samples[half:], SAMPLES[::-1])):
        assert likeness(part, expected) > 0.6  # AMR is the worst


@pytest.mark.parametrize("kind", ["wv", "tta", "ac3", "adts"])
def test_damage_is_no_end(kind, tmp_path):
    """What is broken in the middle is said, and what comes behind it is heard."""
    content = bytearray(recording(kind) * 3)
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    (tmp_path / "sound").write_bytes(content)
    source = open_audio(tmp_path / "sound", RATE)
    assert source.losses and "damaged at" in source.losses[0]
    samples = np.concatenate(list(source.blocks()))
    tail = len(SAMPLES) // 4
    assert likeness(samples[-tail - 4000 :], SAMPLES[-tail:]) > 0.9


def test_frames_behind_sound_of_no_known_end(tmp_path):
    content = b".SoX\x1c\0\0\0" + np.array(len(SAMPLES), "<u8").tobytes()
    content += np.array(16000, "<f8").tobytes() + b"\1\0\0\0\0\0\0\0"
    content += (SAMPLES * 2**31).astype("<i4").tobytes()
    (tmp_path / "sound").write_bytes(content)
    assert open_audio(tmp_path / "sound", RATE).losses == ()
    (tmp_path / "sound").write_bytes(content + recording("ac3"))
    [loss] = open_audio(tmp_path / "sound", RATE).losses
    assert loss == "it ends in frames of another recording, which are not heard"


def test_chance_makes_no_recording():
    content = np.random.default_rng(0).bytes(4 << 20)
    assert next_start(View(io.BytesIO(content), 0, len(content)), 0) == len(content)
