"""What is refused as raw samples, and that no sound is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st
from support.commands import SAMPLES
from support.sounds import RATE, encoded

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.container.formats import RAW_SUBTYPES, RawSound
from voxtral_onnx.runtime.audio.container.frames import Frames
from voxtral_onnx.runtime.audio.container.refusals import LOOKED_BYTES, bytes_to_tell, require_raw
from voxtral_onnx.runtime.audio.container.spool import keep
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.audio.pipes import raw_blocks

# By the name that FFmpeg has for a container: codec, rate, channels
CONTAINERS = {
    **{"ac3": ("ac3", 48000, 2), "eac3": ("eac3", 48000, 2)},
    **{"mp2": ("mp2", 48000, 2), "adts": ("aac", 16000, 1), "latm": ("aac", 16000, 1)},
    **{"mpeg": ("mp2", 48000, 2)},
    **{"vob": ("ac3", 48000, 2), "mpegts": ("mp2", 48000, 2), "nut": ("pcm_s16le", 16000, 1)},
    **{"swf": ("mp3", 44100, 2), "adx": ("adpcm_adx", 16000, 1), "spdif": ("ac3", 48000, 2)},
    **{"sox": ("pcm_s32le", 16000, 1), "flv": ("mp3", 44100, 2), "rm": ("ac3", 48000, 2)},
    **{"smjpeg": ("pcm_s16le", 16000, 1), "mp3": ("mp3", 44100, 2), "wtv": ("mp2", 48000, 2)},
}


def muxed(container: str, **options: str) -> bytes:
    """Return two seconds of noise in a container of FFmpeg."""
    codec, rate, channels = CONTAINERS[container]
    file, random = io.BytesIO(), np.random.default_rng(0)
    with av.open(file, "w", format=container, options=options) as opened:
        layout = "mono" if channels == 1 else "stereo"
        stream: Any = opened.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        samples = random.normal(0, 3000, (1, 2 * rate * channels)).astype("<i2")
        frame = av.AudioFrame.from_ndarray(samples, "s16", layout)
        frame.sample_rate = rate
        opened.mux(stream.encode(frame))
        opened.mux(stream.encode(None))
    return file.getvalue()


def require(content: bytes) -> None:
    require_raw(content[: bytes_to_tell(content[:4096])], "expected samples, got", "advice")


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_format_of_sound_is_heard_as_samples(container, tmp_path):
    content = muxed(container)
    with pytest.raises(AudioError, match="expected raw s16le samples or a WAV, got another format"):
        list(raw_blocks(io.BytesIO(content), "s16le", RATE, RATE))  # pyright: ignore[reportArgumentType]
    (tmp_path / "a.raw").write_bytes(content)
    words = r"a.raw: expected raw s16le samples, got another format of sound; leave out --raw"
    with pytest.raises(AudioError, match=words):
        open_audio(tmp_path / "a.raw", RATE, raw=RawSound("s16le"))


def test_packets_with_times_are_a_format():
    with pytest.raises(AudioError, match="another format"):
        require(muxed("mpegts", mpegts_m2ts_mode="1"))


@pytest.mark.parametrize(
    "content",
    [
        (b"\x7f\xfe\x80\x01\xfc\x3c\x7d\xd2" + bytes(2006)) * 9,  # DTS in frames of 2,014 bytes
        b"\xb0\x3a\0\0\xf8\x72\x6f\xba" + bytes(9000),  # TrueHD
        b"\xb0\x3a\0\0\xf8\x72\x6f\xbb" + bytes(9000),  # MLP
        b"\0\4play" + bytes(59) + b"FSSD" + bytes(59) + b"HCOM" + bytes(9000),
        b"STRM" + bytes(9000),  # of GameCube
    ],
    ids=["dts", "truehd", "mlp", "hcom", "ast"],
)
def test_formats_that_are_not_written_here(content):
    with pytest.raises(AudioError, match="another format"):
        require(content)


@pytest.mark.parametrize("container", ["MAT4", "MAT5", "AVR", "IRCAM", "PAF", "PVF", "NIST", "VOC"])
def test_formats_of_libsndfile(container):
    samples = np.zeros(9000, np.float32)
    soundfile.write(file := io.BytesIO(), samples, RATE, "PCM_16", format=container)
    with pytest.raises(AudioError, match="another format"):
        require(file.getvalue())


def test_a_picture_may_stand_before_the_sound():
    tag = b"ID3\4\0\0" + bytes((0, 3, 0, 0)) + bytes(3 << 14)
    with pytest.raises(AudioError, match="another format"):
        require(tag + encoded("mp3"))


def raw_forms(samples: np.ndarray) -> dict[str, bytes]:
    """Return samples in each raw format."""
    forms = {}
    for kind, subtype in RAW_SUBTYPES.items():
        soundfile.write(file := io.BytesIO(), samples, RATE, subtype, format="RAW", endian="LITTLE")
        forms[kind] = file.getvalue()
    return forms


@pytest.mark.parametrize("clip", sorted(SAMPLES.glob("*.wav")), ids=lambda path: path.stem)
def test_speech_is_never_refused(clip: Path):
    samples = soundfile.read(clip, dtype="float32")[0]
    for content in raw_forms(samples).values():
        for start in range(0, len(content) - 4096, len(content) // 40 // 4 * 4):
            require(content[start : start + LOOKED_BYTES])


@given(
    seed=st.integers(0, 1 << 32),
    level=st.floats(-5, 0),
    offset=st.sampled_from([0, 0.01, -0.001, -0.01, -0.1, 0.3]),
)
@example(0, -5.0, 0.01)  # an offset whose byte is the mark of MPEG-TS
@example(0, -4.0, -0.001)  # G.711 that is letters throughout
def test_noise_is_never_refused(seed, level, offset):
    random = np.random.default_rng(seed)
    samples = (random.normal(offset, 10**level, 5000)).clip(-1, 1)
    for content in raw_forms(samples).values():
        for start in range(0, 800, 20):
            require(content[start:])


@pytest.mark.parametrize("byte", range(256))
def test_what_never_changes_is_never_refused(byte):
    require(bytes([byte]) * LOOKED_BYTES)
    for other in range(0, 256, 15):
        require(bytes([byte, other]) * 4096)


@given(st.integers(1, 200), st.sampled_from([94, 96, 48, 47, 188]), st.floats(0.01, 1))
def test_tones_are_never_refused(phase, period, level):
    samples = level * np.sin(2 * np.pi * (np.arange(9000) + phase) / period)
    for content in raw_forms(samples).values():
        for start in range(0, 4 * period, 12):
            require(content[start : start + LOOKED_BYTES])


@pytest.mark.parametrize(
    "head", [b"MZ", b"mz", b"\x1f\x8b", b"\x08\0\xff" + bytes(10), b"\xff\xfb\x90", b"\xff\xfe\0\0"]
)
def test_short_marks_are_no_marks(head):
    for content in raw_forms(soundfile.read(SAMPLES / "date-hibari.wav")[0]).values():
        require((head + content)[:LOOKED_BYTES])
        require((head + bytes(9000))[:LOOKED_BYTES])


def test_what_stdin_gives_is_told_too():
    with pytest.raises(AudioError, match=r"^pipe: expected raw alaw samples, got a PDF"):
        content = b"%PDF-1.7 " + bytes(range(256)) * 9
        Frames("pipe", keep("pipe", [content]), RawSound("alaw"))
