"""A gap that damage made is a loss, a pause of the recorder is none; ends are asked as well."""

from __future__ import annotations

import logging
from functools import cache

import av
import numpy as np
import pytest
from support.media import contained
from support.sounds import RATE, SAMPLES

from voxtral_onnx.runtime.audio.files import AudioSource, open_audio

SPEECH = np.tile(SAMPLES, 4)
# By the container: codec, rate. PCM besides, whose packets are alike
CLOCKED = {
    "matroska": ("libmp3lame", 16000),
    "webm": ("libopus", 48000),
    "asf": ("libmp3lame", 16000),
    "nut": ("aac", 16000),
    "mpeg": ("mp2", 16000),
    "mpegts": ("mp2", 48000),
    "flv": ("aac", 44100),
}
BARE = {"adts": "aac", "ac3": "ac3", "eac3": "eac3", "mp2": "mp2"}
CUT = "it ends inside a frame: it may be cut off"


@cache
def speech(container: str, codec: str, rate: int, pause: tuple[float, float] = (0, 0)) -> bytes:
    # FFmpeg finds its way again at the next cluster
    options = {"cluster_time_limit": "1000"} if container in ("matroska", "webm") else {}
    return contained(container, codec, SPEECH, rate, pause, options=options)


@pytest.fixture
def opened(tmp_path):
    def opened(content: bytes) -> AudioSource:
        (tmp_path / "sound").write_bytes(content)
        return open_audio(tmp_path / "sound", RATE)

    return opened


@pytest.mark.parametrize("is_zeroed", [True, False], ids=["zeroed", "cut-out"])
@pytest.mark.parametrize("container", [*CLOCKED, "rm"])
def test_what_is_missing_in_the_middle(container, is_zeroed, opened, capfd):
    content = speech(container, *CLOCKED.get(container, ("ac3", 48000)))
    start, end = len(content) * 2 // 5, len(content) * 3 // 5
    zeros = bytes(end - start) if is_zeroed else b""
    source = opened(content[:start] + zeros + content[end:])
    assert source.losses[0].startswith("damaged at "), source.losses
    assert not any("holds no sound" in note for note in source.notes)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("container", [*CLOCKED])
def test_a_pause_is_no_loss(container, opened):
    source = opened(speech(container, *CLOCKED[container], (4.0, 3.0)))
    assert source.losses == ()
    assert source.notes[0].startswith("holds no sound for 3.")


def test_a_pause_beside_damage(opened):
    """The one is named as such, and the other as such."""
    content = speech("matroska", *CLOCKED["matroska"], (7.0, 3.0))
    start = len(content) // 5
    source = opened(content[:start] + bytes(len(content) // 10) + content[start * 3 // 2 :])
    [loss] = source.losses
    assert loss.startswith("damaged at ") and float(loss.split()[2]) < 4
    assert source.notes == ("holds no sound for 3.0 s in all, which are silence now",)


def test_what_a_program_wants_to_hear_of_ffmpeg_stays(opened, caplog):
    content = speech("matroska", *CLOCKED["matroska"], (4.0, 3.0))
    for level in (None, av.logging.ERROR):
        av.logging.set_level(level)
        try:
            opened(content)
            assert av.logging.get_level() == level and av.logging.get_skip_repeated()
        finally:
            av.logging.set_level(None)
    assert not caplog.records and logging.getLogger("libav").propagate


@pytest.mark.parametrize("container", [*BARE, "mpeg", "nut", "rm", "avi", "mp3"])
def test_zeros_instead_of_the_second_half(container, opened):
    """As a crash leaves them, or a download that was not finished."""
    codec, rate = BARE.get(container), 48000
    if container not in BARE:
        codec = {"mp3": "libmp3lame", "nut": "aac", "mpeg": "mp2"}.get(container, "ac3")
    options = {"write_xing": "0"} if container == "mp3" else {}
    content = contained(container, str(codec), SPEECH, rate, options=options)
    half = len(content) // 2
    source = opened(content[:half] + bytes(len(content) - half))
    assert any(loss.startswith("cut off: ") for loss in source.losses), source.losses
    assert opened(content).losses == ()
    if container in BARE:
        assert opened(content + bytes(2000)).losses == ()


def test_silence_of_pcm_is_no_padding(opened):
    samples = np.concatenate([SAMPLES, np.zeros(5 * RATE, np.float32)])
    source = opened(contained("nut", "pcm_s16le", samples))
    assert source.losses == () and abs(source.duration - len(samples) / RATE) < 0.1


@pytest.mark.parametrize("share", [0.31, 0.5, 0.77])
@pytest.mark.parametrize(
    "container", ["avi", "nut", "rm", "mpeg", "asf", "voc", "adx", "mxf_opatom"]
)
def test_ends_before_what_was_promised(container, share, opened):
    codecs = {
        "mxf_opatom": "pcm_s16le",
        "nut": "aac",
        "mpeg": "mp2",
        "asf": "libmp3lame",
        "voc": "pcm_u8",
    }
    codec = codecs.get(container, "ac3")
    rate = 16000 if container in ("voc", "adx") else 48000
    if container == "adx":
        codec = "adpcm_adx"
    content = contained(container, codec, SAMPLES, rate)
    assert opened(content).losses == ()
    losses = opened(content[: int(len(content) * share) + 1]).losses
    assert losses and ("cut off" in losses[0] or "damaged at" in losses[0])


def test_an_avi_that_was_written_to_a_pipe(opened):
    """It promises nothing that it does not keep."""
    content = bytearray(contained("avi", "pcm_s16le", SAMPLES))
    content[4:8] = b"\xff" * 4
    at = content.index(b"movi") - 4
    content[at : at + 4] = b"\xff" * 4
    at = content.index(b"strh") + 8 + 32
    content[at : at + 4] = b"\xff\xff\xff\x3f"
    assert opened(bytes(content)).losses == ()


def test_a_video_that_ends_early(opened, tmp_path):
    """Its header has one length, which may be its pictures'."""
    file = tmp_path / "a.mkv"
    with av.open(str(file), "w") as output:
        picture = output.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        track = output.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number in range(len(SPEECH) // 1600):
            image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            image.pts = number
            output.mux(picture.encode(image))
            values = (SPEECH[None, number * 1600 :][:, :1600] * 32767).astype("<i2")
            frame = av.AudioFrame.from_ndarray(values, "s16", "mono")
            frame.sample_rate, frame.pts = RATE, number * 1600
            output.mux(track.encode(frame))
        output.mux(picture.encode())
    content = file.read_bytes()
    assert opened(content).losses == ()
    [loss] = opened(content[: len(content) // 2]).losses
    assert loss.startswith("cut off: the last 4.")


def test_wavpack_in_few_blocks(opened):
    """Joined to itself it is two recordings, and one of them is one, however short it is."""
    content = contained("wv", "wavpack", np.tile(SAMPLES, 2), frame_size=2 * RATE)
    assert (opened(content).notes, opened(content).losses) == ((), ())
    source = opened(content * 2)
    assert source.notes == ("2 recordings, one after the other",) and source.losses == ()
    assert abs(source.duration - 4 * len(SAMPLES) / RATE) < 0.05


def test_wavpack_behind_damage(opened):
    content = bytearray(contained("wv", "wavpack", SPEECH, frame_size=RATE))
    second = content.index(b"wvpk", 4)
    source = opened(bytes(content[: second // 2] + content[second - 100 :]))
    assert source.losses == (CUT,)
    assert not any("holds no sound" in note for note in source.notes)
    assert abs(source.duration - (len(SPEECH) / RATE - 4)) < 0.1  # of blocks of 4 s
