"""Loudness, offsets and what cancels are measured alike in any pieces, and clicks do not count."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import CLIP, SAMPLES

from voxtral_onnx.runtime.audio.meter import SILENT_PEAK, SoundMeter, dbfs

RATE = 8000
SPEECH, SPEECH_RATE = soundfile.read(CLIP, dtype="float32", always_2d=True)


def measured(frames: np.ndarray, rate: int = RATE, cuts: tuple[int, ...] = ()) -> SoundMeter:
    meter = SoundMeter(rate, frames.shape[1], are_compared=True)
    for piece in np.split(frames, sorted(cuts)):
        meter.push(piece)
    meter.finish()
    return meter


def loudness(frames: np.ndarray, rate: int = SPEECH_RATE) -> float:
    return dbfs(measured(frames, rate).loudness(0))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.integers(0, 12000),
    st.lists(st.integers(0, 12000), max_size=5),
)
def test_any_pieces_are_measured_as_the_whole(seed, channels, length, cuts):
    random = np.random.default_rng(seed)
    level = 10 ** random.uniform(-4, 0, channels)
    frames = (random.normal(size=(length, channels)) * level + level / 2).astype(np.float32)
    whole, pieces = measured(frames), measured(frames, cuts=tuple(min(c, length) for c in cuts))
    for signal in range(channels):
        assert pieces.loudness(signal) == pytest.approx(whole.loudness(signal))
        assert pieces.peak(signal) == whole.peak(signal)
        one, other = pieces.offset(signal), whole.offset(signal)
        if length and level[signal] > 1e-3:
            assert one is not None and other is not None
            assert one.mean == pytest.approx(other.mean)
    assert pieces.shares_lost() == pytest.approx(whole.shares_lost())
    assert pieces.silent_channels() == whole.silent_channels()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(-160, 180), st.floats(-1, 1))
def test_loudness_follows_the_level_and_no_offset(decibels, offset):
    factor = 10 ** (decibels / 20)
    frames = SPEECH.astype(np.float64)
    frames = (frames + offset) * factor
    assert loudness(frames) == pytest.approx(loudness(SPEECH) + decibels, abs=0.01)


@pytest.mark.parametrize("milliseconds", [0, 1, 10, 60])
@pytest.mark.parametrize("at", [0, 5000, len(SPEECH) - 960])
def test_what_is_short_is_no_loudness(milliseconds, at):
    quiet = SPEECH * 1e-3
    quiet[at : at + 1 + milliseconds * SPEECH_RATE // 1000] = 0.9
    meter = measured(quiet, SPEECH_RATE)
    assert dbfs(meter.loudness(0)) == pytest.approx(loudness(SPEECH) - 60, abs=3)
    assert meter.peak(0) == pytest.approx(0.9)


def test_crackle_is_no_loudness():
    quiet = SPEECH * 1e-3
    quiet[::2000] = 0.9
    assert loudness(quiet) == pytest.approx(loudness(SPEECH) - 60, abs=3)


def test_long_pauses_are_no_loudness():
    noise = np.random.default_rng(0).normal(0, 1e-4, (300 * SPEECH_RATE, 1))
    assert loudness(np.concatenate((noise, SPEECH))) == pytest.approx(loudness(SPEECH), abs=2)


def test_a_short_word_in_nothing_has_a_loudness():
    word = np.zeros((SPEECH_RATE, 1))
    word[-800:] = np.random.default_rng(0).normal(0, 0.1, (800, 1))
    assert -40 < loudness(word) < -20


@pytest.mark.parametrize("length", [0, 1, 2, 100, 5000])
def test_little_sound_is_measured(length):
    frames = np.random.default_rng(0).normal(0, 0.1, (length, 2)).astype(np.float32)
    meter = measured(frames)
    assert meter.num_frames == length
    assert meter.peak(0) == (np.abs(frames[:, 0]).max() if length else 0)
    assert (meter.loudness(0) > 0.01) == (length > 1)


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*.wav")), ids=lambda file: file.stem)
def test_recordings_have_no_offset(file):
    frames, rate = soundfile.read(file, dtype="float32", always_2d=True)
    assert measured(frames, rate).offset(0) is None


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.sampled_from([-1, 1]), st.floats(-3.8, 0), st.floats(-3, 0))
def test_an_offset_is_found(sign, exponent, loudness):
    speech, offset = SPEECH * np.float32(10**loudness), sign * 10**exponent
    found = measured(speech + np.float32(offset), SPEECH_RATE).offset(0)
    if abs(offset) > 0.02 * 10**loudness:
        assert found is not None and found.is_constant
        assert found.mean == pytest.approx(offset, rel=0.02)
    if abs(offset) < 0.002 * 10**loudness:
        assert found is None


def test_an_offset_that_changes_is_found_though_its_mean_is_none():
    found = measured(SPEECH + np.linspace(-0.1, 0.1, len(SPEECH))[:, None], SPEECH_RATE).offset(0)
    assert found is not None and not found.is_constant
    assert found.start < -0.05 and found.size == pytest.approx(0.058, abs=0.01)


def test_truncation_to_16_bits_is_no_offset():
    noise = np.floor(np.random.default_rng(0).normal(0, 0.6, (RATE, 1))) / 32768
    assert measured(noise).offset(0) is None


@pytest.mark.parametrize("value", [0, 0.1, -1, 2.0**31])
def test_what_is_constant_is_silent(value):
    meter = measured(np.full((RATE + 10, 2), value))
    assert meter.is_silent(0) and meter.silent_channels() == {0, 1}
    assert not measured(np.array([[value], [value + 0.1]], np.float64)).is_silent(0)


def test_a_channel_is_silent_beside_a_loud_one():
    one = np.full((RATE, 1), 1e-5) * np.random.default_rng(0).normal(size=(RATE, 1))
    assert measured(one).silent_channels() == set()
    assert measured(np.hstack((one, SPEECH[:RATE]))).silent_channels() == {0}
    assert measured(np.hstack((one, one * SILENT_PEAK))).silent_channels() == {1}


def test_channels_that_are_the_same():
    noise = np.random.default_rng(0).normal(0, 1e-4, SPEECH.shape)
    frames = np.hstack((SPEECH, SPEECH + 0.1, SPEECH * 0.99, -SPEECH, SPEECH + noise))
    meter = measured(frames, SPEECH_RATE)
    assert [meter.are_same(0, other) for other in range(5)] == [True, True, False, False, False]


@pytest.mark.parametrize("count", [2, 3, 6, 16])
def test_an_average_loses_what_cancels_and_not_what_is_alone(count):
    random = np.random.default_rng(0)
    alone = np.zeros((RATE, count))
    alone[:, -1] = random.normal(size=RATE)
    assert measured(alone).shares_lost()[-2:].tolist() == [0, 0]
    voices = random.normal(size=(RATE, count))
    assert measured(voices).shares_lost().tolist() == [0] * (count + 1)
    opposite = np.tile(random.normal(size=(RATE, 1)), count)
    opposite[:, ::2] *= -(count // 2) / (count - count // 2)
    meter = measured(opposite)
    assert meter.has_faded() and meter.shares_lost()[-1] == 1
