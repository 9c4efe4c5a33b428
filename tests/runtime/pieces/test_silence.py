"""Silence is found by its level in its neighbourhood: at any loudness, in noise, hum and music."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import SAMPLES

from voxtral_onnx.runtime.pieces.silence import SilenceFinder

RATE, FRAME = 16000, 320
PAUSE = 0.8  # seconds between clips
FAINT = 16  # frames at the ends of clips that are faint


def clip(name: str) -> np.ndarray:
    """Return a sample from its first loud sample to its last."""
    samples = soundfile.read(SAMPLES / f"{name}.wav", dtype="float32")[0]
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    return samples[loud[0] : loud[-1]]


SPEECH = [clip(name) for name in ("command-hibari", "number-flite", "digits-espeak", "time-flite")]


def find(samples: np.ndarray) -> np.ndarray:
    """Return which frames are silent."""
    finder = SilenceFinder(RATE)
    return np.concatenate([np.zeros(0, bool), *finder.push(samples), *finder.finish()])


def pauses(is_silent: np.ndarray, least: int = 30) -> list[tuple[int, int]]:
    """Return first frame and end of silences of so many frames."""
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False)).reshape(-1, 2)
    return [(int(first), int(end)) for first, end in edges if end - first >= least]


def speech_with_pauses(seconds: float = 25) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return speech, and first frame and end of the pauses between its clips."""
    parts, gaps, length = [], [], 0
    for at in range(10**6):
        if length >= seconds * RATE:
            break
        spoken = SPEECH[at % len(SPEECH)]
        parts += [spoken, np.zeros(int(PAUSE * RATE), np.float32)]
        gaps.append((length + len(spoken), length + len(spoken) + int(PAUSE * RATE)))
        length = gaps[-1][1]
    return np.concatenate(parts), [(-(-first // FRAME), end // FRAME) for first, end in gaps]


def noise(length: int, slope: float, seed: int = 0) -> np.ndarray:
    """Return noise of power 1 whose spectrum falls as the frequency to the power `slope`."""
    size = 1 << length.bit_length()
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(size))
    spectrum /= np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20) ** slope
    made = np.fft.irfft(spectrum, size)[:length]
    return (made / made.std()).astype(np.float32)


def hum(length: int) -> np.ndarray:
    times = np.arange(length) / RATE
    waves = np.sin(2 * np.pi * np.outer((50, 100, 150), times))
    return waves.sum(0).astype(np.float32)


def chords(length: int) -> np.ndarray:
    """Return struck chords that ring on, four in a second, without a pause."""
    times = np.arange(length) / RATE
    made = np.zeros(length)
    for beat in range(int(4 * length / RATE)):
        after = times[beat * RATE // 4 :][:RATE] - beat / 4
        for step in np.random.default_rng(beat).integers(-12, 13, 3):
            wave = np.sin(2 * np.pi * 440 * 2 ** (step / 12) * after) * np.exp(-6 * after)
            made[beat * RATE // 4 :][: len(wave)] += wave
    return (made / made.std()).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([1, 319, 320, 1280, 15999, 16000, 48000]), max_size=30),
    st.integers(0, 25 * RATE),
)
def test_sizes_of_blocks_do_not_matter(sizes, length):
    samples = speech_with_pauses()[0][:length]
    whole = find(samples)
    finder, at, found = SilenceFinder(RATE), 0, [np.zeros(0, bool)]
    for size in [*sizes, length]:
        block = samples[at : at + size].copy()
        found += finder.push(block)
        block[:] = 1  # the caller's buffer is used again
        at += size
    found += finder.finish()
    assert np.array_equal(np.concatenate(found), whole)
    assert len(whole) == length // FRAME


@pytest.mark.parametrize("gain", [1, 1e-2], ids=["loud", "forty decibels lower"])
@pytest.mark.parametrize(
    ("sound", "decibels"),
    [
        (lambda n: np.zeros(n, np.float32), 0),
        (lambda n: noise(n, 0), -10),
        (lambda n: noise(n, 0.5), -5),
        (lambda n: noise(n, 1), 0),
        (hum, 20),
        (lambda n: np.ones(n, np.float32), 20),
    ],
    ids=["digital", "white", "pink", "brown", "hum", "offset"],
)
def test_pauses_are_found_in_sound_that_is_steady(sound, decibels, gain):
    """The level of the sound is relative to that of the speech."""
    speech, gaps = speech_with_pauses()
    level = speech.std() * 10 ** (decibels / 20)
    samples = gain * (speech + level * sound(len(speech)))
    is_silent = find(samples.astype(np.float32))
    assert all(any(s < end and first < e for s, e in pauses(is_silent)) for first, end in gaps)
    for start, stop in pauses(is_silent):
        assert any(first - FAINT <= start and stop <= end + FAINT for first, end in gaps)


@pytest.mark.parametrize("slope", [0, 0.5, 1])
def test_steady_noise_is_silence(slope):
    assert find(0.1 * noise(60 * RATE, slope)).mean() > 0.99


def test_digital_silence_is_silence():
    assert find(np.zeros(60 * RATE, np.float32)).all()


def test_digital_silence_far_away_leaves_pauses_in_noise():
    speech, gaps = speech_with_pauses()
    noisy = speech + 0.02 * speech.std() * noise(len(speech), 0)
    found = pauses(find(np.concatenate((np.zeros(20 * RATE, np.float32), noisy))))
    offset = 20 * RATE // FRAME
    assert all(
        any(s < end + offset and first + offset < e for s, e in found) for first, end in gaps
    )


def test_music_without_pauses_has_none():
    assert not pauses(find(0.1 * chords(60 * RATE)))


def test_speech_of_which_some_is_much_lower_is_no_silence():
    """Of two who talk, one is 20 decibels lower."""
    speech, gaps = speech_with_pauses(60)
    samples, at = speech.copy(), 0
    for number, (_, end) in enumerate(gaps):
        if number % 2:
            samples[at * FRAME : end * FRAME] /= 10
        at = end
    found = pauses(find(samples + 1e-4 * noise(len(samples), 0)))
    assert len(found) >= len(gaps) - 1
    assert all(
        any(first - FAINT <= s and e <= end + FAINT for first, end in gaps) for s, e in found
    )


def test_memory_does_not_grow():
    finder = SilenceFinder(RATE)
    for _ in range(200):
        for _ in finder.push(np.zeros(RATE, np.float32)):
            pass
    assert len(finder._levels) <= 32
    assert finder._num_rest < RATE
    assert len(finder._rest) <= 1
