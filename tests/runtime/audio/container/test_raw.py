"""Samples of a pipe as they come."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import soxr
from support.commands import TEXT
from support.sounds import RATE, SAMPLES, encoded

from voxtral_onnx.errors import AudioError, UsageError
from voxtral_onnx.runtime.audio.container.formats import RAW_SUBTYPES, RawSound
from voxtral_onnx.runtime.audio.container.raw import RAW_FORMATS, raw_blocks
from voxtral_onnx.runtime.audio.files import open_audio

RAW = (SAMPLES * 32768).astype("<i2").tobytes()


class Pipe:
    """A pipe whose reads return at most so many bytes."""

    def __init__(self, content: bytes, size: int):
        self.content, self.size = content, size

    def read(self, size: int) -> bytes:
        piece = self.content[: min(size, self.size)]
        self.content = self.content[len(piece) :]
        return piece


def read(content: bytes, kind: str = "s16le", rate: int = RATE, size: int = 4096) -> np.ndarray:
    pipe = Pipe(content, size)
    return np.concatenate([np.zeros(0), *raw_blocks(pipe, kind, rate, RATE)])  # pyright: ignore[reportArgumentType]


def written(container: str, codec: str, samples: np.ndarray = SAMPLES, rate: int = RATE) -> bytes:
    soundfile.write(file := io.BytesIO(), samples, rate, codec, format=container, endian="LITTLE")
    return file.getvalue()


@pytest.mark.parametrize("size", [1, 3, 999, 65536])
def test_bytes_come_in_pieces_of_any_size(size):
    content = RAW if size > 1 else RAW[:3000]
    expected = np.frombuffer(content, "<i2") / np.float32(32768)
    assert np.array_equal(read(content, size=size), expected)
    with pytest.raises(AudioError, match=r"ended inside a sample: 1 of 2 bytes \(s16le\)"):
        read(content + b"x", size=size)


@pytest.mark.parametrize("kind", RAW_FORMATS)
def test_encodings_are_those_of_libsndfile(kind, tmp_path):
    content = written("RAW", RAW_SUBTYPES[kind])
    (tmp_path / "a.raw").write_bytes(content)
    source = open_audio(tmp_path / "a.raw", RATE, raw=RawSound(kind))
    expected = np.concatenate(list(source.blocks()))
    assert np.corrcoef(expected, SAMPLES)[0, 1] > 0.99
    assert np.array_equal(read(content, kind), expected)


@pytest.mark.parametrize("kind", ["mulaw", "alaw"])
def test_all_codes_of_g711(kind):
    codes = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(codes),
        dtype="float32",
        format="RAW",
        subtype=RAW_SUBTYPES[kind],
        samplerate=RATE,
        channels=1,
    )
    assert np.array_equal(read(codes, kind), expected)


@pytest.mark.parametrize(
    "codec", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
def test_a_wav_says_itself_what_it_is(container, codec):
    for samples, rate in ((SAMPLES, RATE), (np.stack((SAMPLES, SAMPLES / 2), 1), 44100)):
        content = written(container, codec, samples, rate)
        expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].mean(1)
        if rate != RATE:
            expected = soxr.resample(expected, rate, RATE)
        found = read(content, size=1001)
        assert len(found) == len(expected) and np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_written_to_a_pipe(size):
    content = written("WAV", "PCM_16")
    at = content.index(b"data") + 4
    content = content[:at] + size.to_bytes(4, "little") + content[at + 4 :]
    assert np.array_equal(read(content), SAMPLES)


def test_what_stands_behind_the_sound_is_no_sound():
    tags = b"LIST" + (100).to_bytes(4, "little") + bytes(range(100))
    assert np.array_equal(read(written("WAV", "PCM_16") + tags), SAMPLES)


@pytest.mark.parametrize("size", [100, 1 << 16])
@pytest.mark.parametrize("odd", [0, 1])
def test_sound_behind_the_sound_is_not_lost_in_silence(size, odd):
    content = written("WAV", "PCM_U8", SAMPLES[: len(SAMPLES) - odd])
    tags = b"LIST" + (100_000).to_bytes(4, "little") + bytes(100_000)
    for behind in (content, content[36:], encoded("mp3"), encoded("flac"), tags + content[36:]):
        with pytest.raises(AudioError, match="only so much was heard; pipe it into"):
            read(content + behind, size=size)
    for behind in (tags, bytes(9000), b"TAG" + bytes(125)):
        assert len(read(content + behind, size=size)) == len(SAMPLES) - odd


def test_a_wav_without_samples():
    with pytest.raises(AudioError, match="a WAV without samples"):
        read(written("WAV", "PCM_16", SAMPLES[:0]))


def test_a_wav_that_is_cut_off():
    with pytest.raises(AudioError, match="cut off: its header promises 9,000 bytes more"):
        read(written("WAV", "PCM_16")[:-9000])
    with pytest.raises(AudioError, match="a WAV that ends inside its header"):
        read(written("WAV", "PCM_16")[:30])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got nothing: 0 bytes"),
        (b"<html><body>404 Not Found</body></html>\n" * 20, "got an HTML page"),
        (b"yt-dlp: ERROR: this video is private\n", "got text"),
        (b'{"error": 404, "reason": "gone"}' * 9, "got JSON"),
        (encoded("flac"), "another format of sound; pipe it into: voxtral-onnx transcribe -"),
        (encoded("opus"), "another format of sound"),
        (encoded("mp3"), "another format of sound"),
        (encoded("aiff"), "another format of sound"),
        (written("WAV", "IMA_ADPCM"), "a WAV of kind 17 with 4 bits is not read as it comes"),
    ],
    ids=["nothing", "html", "text", "json", "flac", "opus", "mp3", "aiff", "adpcm"],
)
def test_what_is_no_stream_of_samples(content, words):
    with pytest.raises(AudioError, match=words):
        read(content)


@pytest.mark.parametrize("first", [b"\xff\xfb", b"G\0", b"\xff\xff" * 3000, b"\x0b\x77", bytes(98)])
def test_samples_that_begin_as_a_file_might(first):
    assert len(read(first + RAW)) == (len(first) + len(RAW)) // 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--raw", "s24le"], "raw: expected one of s16le, f32le, mulaw, alaw, got 's24le'"),
        (["--raw", "s16le", "--rate", "9"], "rate: expected 1000 to 768000 Hz, got 9"),
        (["--raw", "s16le", "--raw-channels", "0"], "raw channels: expected 1 to 64"),
        (["--rate", "8000"], "--rate is that of --raw FORMAT"),
        (["--raw-channels", "2"], "--raw-channels is that of --raw FORMAT"),
    ],
)
def test_misuse(options, words, run):
    run("transcribe", "-m", "nowhere", *options, "a.raw").assert_refused(2, words)


def test_forms_of_listen_are_checked_before_the_model_is_loaded(run):
    for options in (["--rate", "9"], ["--sample-format", "mp3"]):
        run("listen", "-m", "nowhere", "--stdin", *options).assert_refused(2, "expected ")
    with pytest.raises(UsageError):
        raw_blocks(Pipe(b"", 1), "u8", RATE, RATE)  # pyright: ignore[reportArgumentType]


def test_the_first_spelling_of_listen(process, tiny_artifact):
    wav = written("WAV", "PCM_16", np.stack((SAMPLES, SAMPLES), 1))
    result = process("transcribe", "-m", tiny_artifact, "--stdin", input=wav)
    assert (result.code, result.out) == (0, TEXT + "\n")
    result = process("transcribe", "-m", tiny_artifact, "--stdin", "--gain", "auto", input=wav)
    result.assert_refused(2, "--gain: files are for `voxtral-onnx transcribe`")
