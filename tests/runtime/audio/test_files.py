"""Audio of any kind gives the transcript, or says what was wrong or done with it."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import soundfile
import soxr
from support.commands import CLIP, TEXT

from voxtral_onnx.errors import AudioError, UsageError
from voxtral_onnx.memory import resident_memory
from voxtral_onnx.runtime.audio.files import BLOCK_SECONDS, open_audio
from voxtral_onnx.runtime.audio.find import find_audio
from voxtral_onnx.runtime.bench import open_clip
from voxtral_onnx.verification.clips import open_clips

RATE = 16000
SAMPLES, _ = soundfile.read(CLIP, dtype="float32")
HEADERLESS_BYTES = (SAMPLES * 32768).astype("<i2").tobytes()


@pytest.fixture
def transcribe(run, tiny_artifact):
    return lambda *arguments: run("transcribe", "-m", tiny_artifact, *arguments)


def with_data_size(size: int, content: bytes) -> bytes:
    """The WAV with another size in its RIFF and data headers."""
    at, field = content.index(b"data") + 4, size.to_bytes(4, "little")
    return content[:4] + field + content[8:at] + field + content[at + 4 :]


def with_sample(value: float, at: int = 8000) -> np.ndarray:
    samples = SAMPLES.copy()
    samples[at] = value
    return samples


def read(path, **options) -> np.ndarray:
    return np.concatenate(list(open_audio(path, RATE, **options).blocks()))


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("missing.wav", None, ["missing.wav: no such file"]),
        ("x" * 300, None, ["cannot be read", "File name too long"]),
        ("text.wav", b"hello", ["text.wav: not a readable audio file: this is text"]),
        ("empty-file.wav", b"", ["empty-file.wav: not a readable audio file: it has 0 bytes"]),
        ("header-cut.wav", CLIP.read_bytes()[:30], ["not a readable audio file"]),
        ("headerless.raw", HEADERLESS_BYTES, ["headerless.raw: not a", "convert it first: ffmpeg"]),
    ],
)
def test_unreadable(name, content, parts, tmp_path, transcribe):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    transcribe(tmp_path / name).assert_refused(6, *parts)


def test_empty_name_is_not_the_folder_one_is_in(tmp_path, monkeypatch, run):
    (tmp_path / "a.wav").write_bytes(CLIP.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert find_audio(["."]) == ["a.wav"]
    with pytest.raises(UsageError, match="the name of a file is empty"):
        find_audio(["a.wav", ""])
    run("transcribe", "-m", "nowhere", "").assert_refused(2, "expected a value, got ''")


def test_only_what_is_called_so_is_standard_input(tmp_path, monkeypatch):
    """libsndfile reads standard input for this name too."""
    (tmp_path / "-").write_bytes(CLIP.read_bytes())
    monkeypatch.chdir(tmp_path)
    [found] = find_audio(["*"])
    assert np.array_equal(read(found), SAMPLES)
    assert find_audio(["-"]) == ["-"]


def test_a_name_is_no_format(tmp_path):
    """libsndfile takes anything for sound of 8 kHz whose name ends so."""
    (tmp_path / "a.au").write_bytes(b"hello" * 1000)
    with pytest.raises(AudioError, match=r"a.au: not a readable audio file"):
        open_audio(tmp_path / "a.au", RATE)


def test_folder_is_no_audio(tmp_path, transcribe):
    transcribe(tmp_path).assert_refused(6, f"{tmp_path}: a folder without audio files (.wav, ")


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (with_sample(np.nan), RATE),
        (with_sample(np.inf), RATE),
        (with_sample(-np.inf), RATE),
        (np.stack((with_sample(np.inf), with_sample(-np.inf)), 1), RATE),
        (np.repeat(with_sample(np.nan), 3), 3 * RATE),
        (with_sample(np.nan, 32000), 4 * RATE),
    ],
    ids=["nan", "inf", "minus-inf", "inf-against-minus-inf", "resampled", "second-block"],
)
def test_samples_that_are_none_are_silence_and_said(samples, rate, tmp_path):
    soundfile.write(tmp_path / "damaged.wav", samples, rate, "FLOAT")
    source = open_audio(tmp_path / "damaged.wav", RATE)
    assert source.losses == ("damaged at 0.5 s (a sample is not a finite number)",)
    assert np.isfinite(np.concatenate(list(source.blocks()))).all()


def test_what_was_heard_is_written_and_the_loss_is_said(tmp_path, transcribe):
    soundfile.write(tmp_path / "damaged.wav", with_sample(np.nan, 34000), RATE, "FLOAT")
    result = transcribe("--json", "-o", tmp_path / "out", tmp_path / "damaged.wav")
    assert (result.code, result.out) == (6, TEXT + "\n")
    [line] = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert line.endswith("damaged.wav: damaged at 2.1 s (a sample is not a finite number)")
    written = json.loads((tmp_path / "out/damaged.json").read_text())
    assert written["text"] == TEXT
    assert written["info"]["losses"] == ["damaged at 2.1 s (a sample is not a finite number)"]
    for options in ([], ["--batch-size", "2"]):
        assert transcribe(*options, CLIP, tmp_path / "damaged.wav").code == 10


def test_nothing_but_damage(tmp_path, transcribe):
    soundfile.write(tmp_path / "a.wav", np.full(RATE, np.nan), RATE, "FLOAT")
    transcribe(tmp_path / "a.wav").assert_refused(
        6, "a.wav: nothing can be heard: damaged at 0.0 s"
    )


@pytest.mark.parametrize(
    "samples", [np.zeros(4, np.int16), np.zeros((4, 2), np.float32), with_sample(np.nan)]
)
def test_arrays_that_are_not_sound(samples):
    with pytest.raises(AudioError, match="samples: "):
        open_audio(samples, RATE)


@pytest.mark.parametrize("value", [1e30, 1e300])
def test_samples_beyond_any_recording(value, tmp_path):
    samples = with_sample(0.5).astype(np.float64)
    samples[8000] = -value
    with pytest.raises(AudioError, match=r"sample 8000 is -1e\+30*, where full scale is 1"):
        open_audio(samples, RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE, "DOUBLE")
    [loss] = open_audio(tmp_path / "a.wav", RATE).losses
    assert loss.startswith("damaged at 0.5 s (a sample is ")
    open_audio(samples.clip(-(2.0**31), 1), RATE)  # 32-bit integers, written as floats


@pytest.mark.parametrize(
    ("rate", "channels", "said"),
    [
        (1, 1, "a.wav: expected 1000 to 768000 Hz, got 1"),
        (999, 1, "got 999"),
        (768_001, 1, "got 768001"),
        (2**31 - 1, 1, "got 2147483647"),
        (RATE, 65, "a.wav: expected 1 to 64 channels, got 65"),
        (RATE, 1024, "1024"),
        (RATE, 65535, "a.wav: expected 1 to 64 channels"),
    ],
)
def test_rates_and_channels_of_no_recording(rate, channels, said, tmp_path, transcribe):
    """A second of 1 Hz would be 16,000 of work, and a block of 1024 channels gigabytes."""
    soundfile.write(tmp_path / "a.wav", np.zeros((2, 1)), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[22:28] = channels.to_bytes(2, "little") + rate.to_bytes(4, "little")
    content[28:34] = bytes(4) + (2 * channels % 2**16).to_bytes(2, "little")
    (tmp_path / "a.wav").write_bytes(content + bytes(4 * channels))
    transcribe(tmp_path / "a.wav").assert_refused(6, said)


@pytest.mark.parametrize(("rate", "channels"), [(1000, 1), (768_000, 1), (RATE, 64)])
def test_rates_and_channels_at_their_bounds(rate, channels, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((rate, channels)), rate)
    assert open_audio(tmp_path / "a.wav", RATE).duration == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a_file_without_a_sample(rate, channels, tmp_path, transcribe):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, channels)), rate)
    transcribe(tmp_path / "empty.wav").assert_refused(6, "empty.wav: no sound: it holds 0 samples")


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_one_sample_is_an_empty_text(value, tmp_path, transcribe):
    soundfile.write(tmp_path / "one.wav", np.array([value]), RATE)
    result = transcribe(tmp_path / "one.wav")
    assert (result.code, result.out) == (0, "\n")


@pytest.mark.parametrize(
    ("rate", "subtype", "stereo", "notes"),
    [
        (16000, "PCM_16", False, []),
        (16000, "PCM_24", False, []),
        (16000, "FLOAT", False, []),
        (16000, "PCM_U8", True, ["2 channels averaged"]),
        (8000, "PCM_16", False, ["resampled from 8000 Hz to 16000 Hz"]),
        (96000, "PCM_24", False, ["resampled from 96000 Hz to 16000 Hz"]),
        (44100, "PCM_16", True, ["resampled from 44100 Hz to 16000 Hz", "2 channels averaged"]),
    ],
)
def test_wav_kinds_give_the_transcript_and_say_what_was_done(
    rate, subtype, stereo, notes, tmp_path, transcribe
):
    samples = soxr.resample(SAMPLES, RATE, rate, quality="VHQ")
    if stereo:  # only the average of the two is the clip; its pauses are noise that cancels
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, len(samples))
        cancels = "channels cancel each other (opposite phase) in N % of the sound; "
        notes = [*notes, f"{cancels}--channels left, right or split keeps it"]
        samples = np.stack((samples + noise, samples - noise), 1)
    soundfile.write(tmp_path / "clip.wav", samples, rate, subtype)
    result = transcribe(tmp_path / "clip.wav")
    assert (result.code, result.out) == (0, TEXT + "\n")
    said = [line for line in result.err.splitlines() if "clip.wav: " in line]
    found = [line.partition("clip.wav: ")[2] for line in said[:-1]]
    assert [re.sub(r"\d+ %", "N %", note) for note in found] == notes


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3", "aiff", "w64"])
def test_formats_of_libsndfile_give_the_transcript(extension, tmp_path, transcribe):
    if extension.upper() not in soundfile.available_formats():
        pytest.skip(f"this libsndfile has no {extension}")
    soundfile.write(tmp_path / f"clip.{extension}", SAMPLES, RATE)
    result = transcribe(tmp_path / f"clip.{extension}")
    assert (result.code, result.out) == (0, TEXT + "\n")


@pytest.mark.parametrize(
    ("factor", "options", "note"),
    [
        (0.0, [], "digital silence"),
        (0.01, [], "quiet, its loudness is -59 dBFS; --gain auto may help"),
        (0.01, ["--gain", "auto"], "gain +38.8 dB"),
        (4.0, [], "exceeds full scale, its peak is +6.0 dBFS"),
        (65536.0, [], "far above full scale, as integers stored as floats are: gain -97.5 dB"),
        (4.0, ["--gain", "auto"], "gain -13.3 dB"),
    ],
)
def test_levels_are_said(factor, options, note, tmp_path, transcribe):
    samples = SAMPLES / np.abs(SAMPLES).max() * 0.5
    soundfile.write(tmp_path / "clip.wav", samples * factor, RATE, "FLOAT")
    result = transcribe(*options, tmp_path / "clip.wav")
    assert result.code == 0
    assert f"clip.wav: {note}\n" in result.err


def test_normal_level_needs_no_word():
    assert open_audio(CLIP, RATE).notes == ()


def test_gain_brings_the_loudness_of_speech(tmp_path):
    soundfile.write(tmp_path / "clip.wav", SAMPLES * 0.01, RATE, "FLOAT")
    loudest = np.abs(SAMPLES).max()
    assert np.abs(read(tmp_path / "clip.wav", gain="auto")).max() == pytest.approx(loudest, rel=0.2)
    assert np.abs(read(tmp_path / "clip.wav")).max() == pytest.approx(0.01 * loudest)


def test_unknown_gain(transcribe):
    transcribe("--gain", "loud", CLIP).assert_refused(
        2, "gain: expected one of ['none', 'auto'], got 'loud'"
    )


def test_wav_cut_off_is_said(tmp_path, transcribe):
    content = CLIP.read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    result = transcribe(tmp_path / "cut.wav")
    assert result.code == 6
    assert TEXT.startswith(result.out.strip()) and result.out.strip()
    assert "cut.wav: cut off: the header promises 2.2 s, the file holds 1.1 s\n" in result.err


def test_mp3_cut_off_is_said(tmp_path):
    soundfile.write(tmp_path / "cut.mp3", SAMPLES, RATE)
    content = (tmp_path / "cut.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 2])
    losses = open_audio(tmp_path / "cut.mp3", RATE).losses
    assert losses[-1] == "cut off: the header promises 2.2 s, the file holds 1.0 s"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x7FFFF000])
def test_wav_of_unknown_length_is_not_cut_off(size, tmp_path):
    (tmp_path / "pipe.wav").write_bytes(with_data_size(size, CLIP.read_bytes()))
    source = open_audio(tmp_path / "pipe.wav", RATE)
    assert source.notes == source.losses == ()
    assert np.array_equal(read(tmp_path / "pipe.wav"), SAMPLES)


def test_ten_hours_at_constant_memory(tmp_path):
    """A sparse file of 576 MB: looked through once, then read as blocks are asked for."""
    path, num_samples = tmp_path / "long.wav", 36_000 * RATE
    soundfile.write(path, np.zeros(0), RATE, "PCM_U8")
    head = with_data_size(num_samples, path.read_bytes())
    start = head.index(b"data") + 8
    path.write_bytes(head[:start])
    os.truncate(path, start + num_samples)
    before = resident_memory()
    source = open_audio(path, RATE)
    assert source.duration == 36_000
    assert source.notes == ("constant offset of -1 removed", "digital silence")
    blocks = source.blocks()
    assert [len(next(blocks)) for _ in range(100)] == [int(BLOCK_SECONDS * RATE)] * 100
    assert resident_memory() - before < 30e6


def test_what_is_not_whole_is_not_measured(tmp_path):
    """A score or a speed of half a recording says nothing of the whole one."""
    (tmp_path / "a.wav").write_bytes(CLIP.read_bytes()[:30_000])
    for read in (open_clip, lambda path, rate: open_clips([path], rate)):
        with pytest.raises(AudioError, match=r"a.wav: expected a whole recording: cut off"):
            read(tmp_path / "a.wav", RATE)
