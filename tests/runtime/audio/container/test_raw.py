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
from voxtral_onnx.runtime.audio.container.raw import RAW_FORMATS
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.audio.pipes import raw_blocks

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
    with pytest.raises(AudioError, match=r"ends inside a sample: 1 of 2 bytes \(s16le\)"):
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


TAGS = b"LIST" + (100_000).to_bytes(4, "little") + bytes(100_000)
ID3 = b"ID3\4\0\0" + bytes((0, 0, 60, 0)) + bytes(60 << 7)


@pytest.mark.parametrize("size", [100, 1 << 16])
@pytest.mark.parametrize("odd", [0, 1])
def test_sound_behind_the_sound_is_heard(size, odd):
    samples = SAMPLES[: len(SAMPLES) - odd]
    content, other = written("WAV", "PCM_U8", samples), written("WAV", "PCM_16")
    eight = read(content)
    for behind in (content, content[36:], TAGS + content[36:]):
        assert np.array_equal(read(content + behind, size=size), np.concatenate((eight, eight)))
    found = read(content + ID3 + other, size=size)
    assert np.array_equal(found, np.concatenate((eight, SAMPLES)))
    for behind in (TAGS, ID3, bytes(9000), b"TAG" + bytes(125)):
        assert len(read(content + behind, size=size)) == len(samples)


def test_a_recording_of_another_rate_behind_the_first():
    narrow = soxr.resample(SAMPLES, RATE, 8000)
    content = written("WAV", "PCM_16") + written("WAV", "PCM_16", narrow, 8000)
    found = read(content, size=999)
    assert np.array_equal(found[: len(SAMPLES)], SAMPLES)
    rest = found[len(SAMPLES) :]
    assert abs(len(rest) - len(SAMPLES)) <= 2
    assert (
        np.corrcoef(rest[: len(SAMPLES) - 2], SAMPLES[: len(rest)][: len(SAMPLES) - 2])[0, 1] > 0.9
    )


@pytest.mark.parametrize("size", [100, 1 << 16])
@pytest.mark.parametrize("behind", [encoded("mp3"), encoded("flac"), ID3 + encoded("mp3")])
def test_what_is_not_read_behind_the_sound_is_a_loss(size, behind):
    content = written("WAV", "PCM_16")
    assert heard(content + behind, size, "a recording of another format follows, and is not heard")
    assert heard(content + written("WAV", "IMA_ADPCM"), size, "not heard .*a WAV of kind 17")
    assert heard(content + content[:30], size, "not heard .*a WAV that ends inside its header")


def heard(content: bytes, size: int, words: str, kind: str = "s16le") -> bool:
    """Return whether the clip is all that is heard, before an error with these words."""
    blocks, found = raw_blocks(Pipe(content, size), kind, RATE, RATE), []  # pyright: ignore[reportArgumentType]
    with pytest.raises(AudioError, match=words):
        found.extend(blocks)
    return np.array_equal(np.concatenate(found), SAMPLES)


@pytest.mark.parametrize("codec", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"])
@pytest.mark.parametrize("silence", [0, 70_000])
def test_samples_behind_the_length_that_is_promised(codec, silence):
    """A writer that died had written it for the first of them; silence among them stays."""
    middle = 24 * 700
    samples = np.concatenate((SAMPLES[:middle], np.zeros(silence), SAMPLES[middle:]))
    content = written("WAV", codec, samples)
    at = content.index(b"data") + 4
    width = len(content[at + 4 :]) // len(samples)
    cut = content[:at] + (width * middle + width - 1).to_bytes(4, "little") + content[at + 4 :]
    notes = []
    blocks = raw_blocks(Pipe(cut, 999), "s16le", RATE, RATE, notes.append)  # pyright: ignore[reportArgumentType]
    assert np.array_equal(np.concatenate(list(blocks)), read(content))
    assert notes == [
        "the input goes on after the length that its header promises: it is heard to its end"
    ]


@pytest.mark.parametrize("behind", [b"a readable sentence. " * 99, bytes(range(256)) * 64])
def test_what_is_no_sound_behind_the_sound_is_said(behind):
    notes = []
    random = np.random.default_rng(3).bytes(9000) if behind[0] == 0 else behind
    pipe = Pipe(written("WAV", "PCM_16") + random, 999)
    found = np.concatenate(list(raw_blocks(pipe, "s16le", RATE, RATE, notes.append)))  # pyright: ignore[reportArgumentType]
    assert np.array_equal(found, SAMPLES)
    assert len(notes) == 1 and notes[0].startswith("what follows the sound is no sound: ")


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_damage_is_passed_over_and_said(rate):
    samples = np.repeat(SAMPLES, rate // RATE)
    samples[rate : rate + rate // 10], samples[-1] = np.nan, np.inf
    notes, found = [], []
    pipe = Pipe(samples.astype("<f4").tobytes(), 999)
    with pytest.raises(
        AudioError, match=r"^standard input: damaged at 1.0 s, 2.2 s \(a sample is "
    ):
        found.extend(raw_blocks(pipe, "f32le", rate, RATE, notes.append))  # pyright: ignore[reportArgumentType]
    whole = np.concatenate(found)
    assert abs(len(whole) - len(SAMPLES)) <= 1 and np.isfinite(whole).all()
    assert np.corrcoef(whole[RATE + 2000 : -9], SAMPLES[RATE + 2000 : len(whole) - 9])[0, 1] > 0.9
    assert len(notes) == 1 and notes[0].startswith("damaged at 1.0 s ")


@pytest.mark.parametrize("size", [4, 999, 1 << 16])
@pytest.mark.parametrize("factor", [32767, 127, 2**23, 100.5])
@pytest.mark.parametrize("silence", [0, 9000])
def test_integers_stored_as_floats_are_refused_before_they_are_heard(factor, silence, size):
    scaled = SAMPLES * factor if factor == 100.5 else np.rint(SAMPLES * factor)
    content = np.concatenate((np.zeros(silence), scaled))[: silence + 8000].astype("<f4").tobytes()
    for kind, sent in (("f32le", content), ("s16le", written("WAV", "FLOAT", scaled))):
        found = []
        with pytest.raises(
            AudioError, match=r"expected floats of -1 to 1, got [\d,.e+]+: integers"
        ):
            found.extend(raw_blocks(Pipe(sent, size), kind, RATE, RATE))  # pyright: ignore[reportArgumentType]
        heard = np.concatenate([np.zeros(1), *found])
        assert (np.abs(heard) <= 1).all() or factor == 100.5


@pytest.mark.parametrize("size", [60, 1 << 16])
def test_floats_above_full_scale_are_heard(size):
    click = SAMPLES.copy()
    click[9000:9100] = 5000
    square = np.where(SAMPLES > 0, 1, -1)
    for samples in (SAMPLES * 20, click, square, np.zeros(9000), np.eye(1, 9000, 50)[0] * 7):
        found = read(samples.astype("<f4").tobytes(), "f32le", size=size)
        assert np.array_equal(found, samples.astype(np.float32))


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_channels_that_cancel_each_other_are_heard(rate):
    samples = SAMPLES if rate == RATE else soxr.resample(SAMPLES, RATE, rate)
    content, notes = written("WAV", "FLOAT", np.stack((samples, -samples), 1), rate), []
    blocks = raw_blocks(Pipe(content, 999), "s16le", RATE, RATE, notes.append)  # pyright: ignore[reportArgumentType]
    found = np.concatenate(list(blocks))
    assert np.corrcoef(found[: len(SAMPLES)], SAMPLES[: len(found)])[0, 1] > 0.99
    assert notes == [
        "channels cancel each other (opposite phase): channel 1 of 2 taken from 0.2 s on"
    ]


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
        (["--rate", "8000"], "--rate belongs to --raw FORMAT"),
        (["--raw-channels", "2"], "--raw-channels belongs to --raw FORMAT"),
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
