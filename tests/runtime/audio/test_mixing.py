"""Mixing to mono keeps the sound: what cancels is not lost, an offset goes, speech gets louder."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import CLIP, SAMPLES, TEXT

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import AudioError, UsageError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.audio.meter import SoundMeter, dbfs
from voxtral_onnx.runtime.audio.mixing import (
    LARGEST_GAIN,
    TARGET_LOUDNESS,
    Mix,
    OffsetFilter,
    channel_names,
    choose_mix,
    choose_split,
)

SPEECH, RATE = soundfile.read(CLIP, dtype="float32")
OTHER = soundfile.read(SAMPLES / "date-hibari.wav", dtype="float32")[0][: len(SPEECH)]


def stacked(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels, 1).astype(np.float32)


def meter_of(frames: np.ndarray) -> SoundMeter:
    meter = SoundMeter(RATE, frames.shape[1], are_compared=True)
    meter.push(frames)
    meter.finish()
    return meter


def mixed(frames: np.ndarray, channels: str = "mix", gain: str = "none") -> tuple[Mix, np.ndarray]:
    mix = choose_mix(meter_of(frames), channels, gain)
    [mono] = mix.mono([frames], RATE)
    return mix, mix.amplify(mono)


def energy(samples: np.ndarray) -> np.ndarray:
    return np.var(samples.astype(np.float64), axis=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from(["noise", "one", "opposite"]))
def test_a_mix_of_any_channels_keeps_the_sound(seed, count, kind):
    """At most 10 dB below the loudest, besides what an average of more than two takes anyhow."""
    random = np.random.default_rng(seed)
    sources = random.normal(size=(RATE // 2, 1 if kind == "one" else count))
    weights = random.normal(size=(sources.shape[1], count)) * 10 ** random.uniform(-2, 0, count)
    if kind == "opposite":
        weights -= weights.mean(1, keepdims=True) * random.choice([0.9, 1])
    frames = (0.1 * sources @ weights + random.uniform(-0.1, 0.1, count)).astype(np.float32)
    mix, mono = mixed(frames)
    least = 0.1 if len(mix.channels) <= 2 else 0.4 / len(mix.channels) ** 2
    assert energy(mono) >= 0.9 * least * energy(frames).max()


@pytest.mark.parametrize("factor", [1, 0.9, 1.1])
def test_the_louder_of_channels_in_opposite_phase_is_taken(factor):
    mix, mono = mixed(stacked(SPEECH, -factor * SPEECH))
    [taken] = mix.channels
    assert taken == (factor > 1)
    assert mix.notes == (f"channels cancel each other (opposite phase): channel {taken + 1} taken",)
    assert np.array_equal(mono, stacked(SPEECH, -factor * SPEECH)[:, taken])


def test_channels_that_cancel_in_spite_of_an_offset():
    mix, mono = mixed(stacked(SPEECH + 0.2, 0.3 - SPEECH))
    assert mix.channels == (0,)
    assert mix.notes[1] == "constant offset of 0.2 removed"
    assert np.abs(mono - SPEECH).max() < 0.05


def test_channels_that_cancel_in_a_part_are_told():
    silence = np.zeros_like(SPEECH)
    left = np.concatenate((SPEECH, silence, OTHER, OTHER, OTHER, OTHER))
    right = np.concatenate((-SPEECH, silence, OTHER, OTHER, OTHER, OTHER))
    mix, _ = mixed(stacked(left, right))
    assert mix.channels == (0, 1)
    assert "channels cancel each other (opposite phase) in " in mix.notes[1]
    mix, _ = mixed(stacked(left[: 3 * len(SPEECH)], right[: 3 * len(SPEECH)]))
    assert mix.channels == (0,)


def test_a_channel_that_lacks_another_voice_is_told():
    silence = np.zeros_like(SPEECH)
    left = np.concatenate((SPEECH, silence, OTHER))
    right = np.concatenate((-SPEECH, OTHER, silence))
    mix, _ = mixed(stacked(left, right))
    [note] = mix.notes
    assert note.startswith("channels cancel each other (opposite phase): channel ")
    assert note.endswith(" % of the sound is on others only; --channels split keeps it")


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("loudness", [1, 1e-3])
def test_the_one_channel_with_sound_is_taken_whole(count, loudness):
    frames = np.zeros((len(SPEECH), count), np.float32)
    frames[:, -1] = SPEECH * loudness
    frames[0] += 0.2 * loudness * 1e-5  # a codec's rounding
    mix, mono = mixed(frames)
    assert mix.notes[0] == f"channel {count} of {count} taken, the others are silent"
    assert np.array_equal(mono, frames[:, -1])


def test_silent_channels_are_left_out_of_the_average():
    frames = np.zeros((len(SPEECH), 6), np.float32)
    frames[:, 2], frames[:, 4] = SPEECH, OTHER
    mix, mono = mixed(frames)
    assert mix.notes == ("2 of 6 channels averaged, the others are silent",)
    assert np.allclose(mono, (SPEECH + OTHER) / 2, atol=1e-6)


def test_voices_of_their_own_are_averaged():
    frames = stacked(SPEECH, OTHER)
    mix, mono = mixed(frames)
    assert mix == Mix((0, 1), notes=("2 channels averaged",))
    assert np.array_equal(mono, frames.mean(1))


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*.wav")), ids=lambda file: file.stem)
def test_clean_sound_stays_as_it_is(file):
    samples = soundfile.read(file, dtype="float32")[0]
    source = open_audio(file, RATE)
    assert source.notes == ()
    assert np.array_equal(np.concatenate(list(source.blocks())), samples)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(-1, 1), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 40000), max_size=6))
def test_an_offset_is_removed_in_any_pieces(offset, seed, cuts):
    sound = np.random.default_rng(seed).normal(0, 0.1, 40000).astype(np.float32)
    whole = OffsetFilter(RATE, 0)(sound)
    remove = OffsetFilter(RATE, offset)
    pieces = np.concatenate(
        [remove(piece) for piece in np.split(sound + np.float32(offset), sorted(cuts))]
    )
    assert pieces.dtype == np.float32
    assert np.allclose(pieces, whole, atol=1e-5)
    assert abs(pieces.mean()) < 2e-3


def test_an_offset_that_jumps_is_gone_at_once():
    sound = np.concatenate((np.full(RATE, 0.1), np.full(RATE, -0.3)))
    filtered = OffsetFilter(RATE, 0.1)(sound)
    assert np.abs(filtered[:RATE]).max() < 1e-6
    assert np.abs(filtered[RATE + RATE // 10 :]).max() < 1e-3


def test_speech_passes_the_filter():
    hertz = np.sin(2 * np.pi * 70 * np.arange(RATE) / RATE)
    level = dbfs(np.sqrt(2 * energy(OffsetFilter(RATE, 0)(hertz))).item())
    assert level == pytest.approx(0, abs=0.2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(-100, 40), st.floats(-100, 40))
def test_the_quieter_gets_the_more_gain(one, other):
    gains = [
        choose_mix(meter_of(stacked(SPEECH * 10 ** (level / 20))), "mix", "auto").gain
        for level in sorted((one, other))
    ]
    assert gains[0] >= 0.999 * gains[1]


@pytest.mark.parametrize("level", [1e-3, 0.1, 1, 4])
@pytest.mark.parametrize("click", [0, 0.9, 8])
def test_speech_gets_the_loudness_of_speech(level, click):
    frames = stacked(SPEECH * level)
    frames[5000] += click
    mix, mono = mixed(frames, gain="auto")
    assert dbfs(meter_of(mono[:, None]).loudness(0)) == pytest.approx(TARGET_LOUDNESS, abs=1)
    assert np.abs(mono).max() <= 1
    assert np.count_nonzero(np.abs(mono) == 1) <= bool(click)
    is_clipped = np.abs(frames).max() * mix.gain > 1
    assert mix.notes[0].endswith(", which clips peaks") == is_clipped


def test_noise_of_a_converter_is_not_made_speech():
    noise = np.random.default_rng(0).normal(0, 1e-6, RATE)
    assert dbfs(mixed(stacked(noise), gain="auto")[0].gain) == pytest.approx(LARGEST_GAIN)


@pytest.mark.parametrize("gain", ["none", "auto"])
@pytest.mark.parametrize(("value", "count"), [(0, 1), (0, 2), (0.1, 1), (-1, 3)])
def test_silence_is_told_and_stays(gain, value, count):
    mix, mono = mixed(np.full((RATE, count), value, np.float32), gain=gain)
    assert mix.gain == 1 and mix.notes[-1] == "digital silence"
    assert np.abs(mono).max() < 1e-9


def test_quiet_speech_with_a_click_is_quiet():
    frames = stacked(SPEECH * 1e-3)
    frames[5000] = 0.9
    [note] = mixed(frames)[0].notes
    assert note == "quiet, its loudness is -79 dBFS; --gain auto may help"


def test_one_channel_where_it_is_asked_for():
    frames = stacked(SPEECH, OTHER, -SPEECH)
    for number, name in enumerate(("left", "right")):
        mix, mono = mixed(frames, name)
        assert mix.notes == (f"channel {number + 1} of 3 taken",)
        assert np.array_equal(mono, frames[:, number])
    mix, mono = mixed(frames[:, :1], "left")
    assert mix.notes == () and np.array_equal(mono, SPEECH)
    with pytest.raises(AudioError, match="no right channel: expected 2 or more channels, got 1"):
        mixed(frames[:, :1], "right")


def test_channels_on_their_own():
    frames = stacked(SPEECH, np.zeros_like(SPEECH), SPEECH, 1e-3 * OTHER, OTHER + 0.1)
    mixes, notes = choose_split(meter_of(frames), "none")
    assert {number: mix.channels for number, mix in mixes.items()} == {0: (0,), 3: (3,), 4: (4,)}
    assert notes == [
        "3 channels, each on its own",
        "channel 2 is silent: left out",
        "channel 3 is the same as channel 1: left out",
        "channel 4: quiet, its loudness is -80 dBFS; --gain auto may help",
        "channel 5: constant offset of 0.1 removed",
    ]
    mixes, notes = choose_split(meter_of(np.zeros((RATE, 2), np.float32)), "none")
    assert list(mixes) == [0] and notes[-1] == "left: digital silence"


def test_names_of_channels():
    assert channel_names(1) == ()
    assert channel_names(2) == ("left", "right")
    assert channel_names(3) == ("channel 1", "channel 2", "channel 3")


def test_what_is_no_choice_of_channels():
    with pytest.raises(UsageError, match=r"channels: expected one of .*, got 'middle'"):
        open_audio(CLIP, RATE, channels="middle")


@pytest.fixture(scope="module")
def transcriber(tiny_artifact):
    with Transcriber(tiny_artifact) as transcriber:
        yield transcriber


CLICK = np.zeros_like(SPEECH)
CLICK[5000] = 0.9
DAMAGED = {
    "opposite": (stacked(SPEECH, -SPEECH), "none"),
    "opposite with offsets": (stacked(SPEECH + 0.1, 0.1 - SPEECH), "none"),
    "quiet on an offset": (stacked(0.02 * SPEECH + 0.02), "none"),
    "on an offset of one channel": (stacked(0.02 * SPEECH + 0.3, 0.02 * SPEECH), "none"),
    "on an offset that drifts": (
        stacked(0.02 * SPEECH + np.linspace(-0.05, 0.05, len(SPEECH))),
        "none",
    ),
    "quiet with a click": (stacked(0.001 * SPEECH + CLICK), "auto"),
    "quiet in the centre": (stacked(*[0 * SPEECH] * 2, 0.1 * SPEECH, *[0 * SPEECH] * 3), "none"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("rate", [RATE, 3 * RATE])
def test_the_text_is_not_lost(name, rate, transcriber, tmp_path):
    frames, gain = DAMAGED[name]
    soundfile.write(tmp_path / "a.wav", np.repeat(frames, rate // RATE, 0), rate, "FLOAT")
    assert transcriber.transcribe(tmp_path / "a.wav", gain=gain).text == TEXT
