"""Raw samples of a pipe are those that were sent, whatever pieces they come in."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from voxtral_onnx.errors import AudioError, UsageError
from voxtral_onnx.runtime.audio.pipes import raw_blocks


class Pipe(io.RawIOBase):
    """A reader that returns what was sent at one time, as a pipe does."""

    def __init__(self, parts):
        self.parts = iter(parts)

    def read(self, size=-1):
        return next(self.parts, b"")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_raw_samples_in_any_pieces(sizes):
    values = np.arange(-400, 400, dtype="<i2")
    data, parts, at = values.tobytes(), [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    parts = [part for part in [*parts, data[at:]] if part]
    found = np.concatenate(list(raw_blocks(Pipe(parts), "s16le", 16000, 16000)))
    assert np.array_equal(found, values / np.float32(1 << 15))


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_another_rate_is_resampled_to_its_end(rate):
    samples = np.sin(np.arange(rate, dtype=np.float32) / 20)
    parts = np.split(samples, range(999, rate, 999))
    found = np.concatenate(
        list(raw_blocks(Pipe([p.tobytes() for p in parts]), "f32le", rate, 16000))
    )
    expected = soxr.resample(samples, rate, 16000)
    assert abs(len(found) - len(expected)) <= 1
    assert np.abs(found[: len(expected)] - expected[: len(found)]).max() < 1e-3


def test_half_a_sample_at_the_end():
    blocks = raw_blocks(Pipe([b"\1\0\2"]), "s16le", 16000, 16000)
    assert len(next(blocks)) == 1
    with pytest.raises(AudioError, match=r"ends inside a sample: 1 of 2 bytes \(s16le\)"):
        next(blocks)


@pytest.mark.parametrize(
    ("kind", "rate", "words"), [("s24le", 16000, "sample format"), ("s16le", 10, "rate")]
)
def test_misuse(kind, rate, words):
    with pytest.raises(UsageError, match=words):
        next(raw_blocks(Pipe([]), kind, rate, 16000))
