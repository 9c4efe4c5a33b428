"""Sound out of videos and what else PyAV reads."""

from __future__ import annotations

import re
import socket
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from support.commands import CLIP, TEXT

from voxtral_onnx.errors import AudioError, DeviceError
from voxtral_onnx.memory import peak_memory, resident_memory
from voxtral_onnx.runtime.audio.container import media
from voxtral_onnx.runtime.audio.files import BLOCK_SECONDS, open_audio
from voxtral_onnx.runtime.audio.find import find_audio

RATE = 16000
SAMPLES, _ = soundfile.read(CLIP, dtype="float32")
SEEK_SECONDS = 0.1  # codecs add padding of a frame or two, and less where they say so


def write_media(
    path: Path,
    *codecs: str,
    rate: int = RATE,
    layout: str = "mono",
    video: str | None = None,
    hole: tuple[float, float] = (0, 0),
    container: str | None = None,
    silent: tuple[int, ...] = (),
    default: int | None = None,
    **options: str,
) -> Path:
    """The clip in an audio track for each codec.

    From hole[0] s on its time stamps are hole[1] s later. Tracks may be silent instead, and one
    the default.
    """
    output: Any  # whose streams are of kinds that only we know
    with av.open(str(path), "w", format=container, options=options) as output:
        picture = output.add_stream(video, rate=10) if video else None
        if picture:
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
        streams = [output.add_stream(codec, rate=rate, layout=layout) for codec in codecs]
        if default is not None:
            for number, stream in enumerate(streams):
                stream.disposition = Disposition.default if number == default else Disposition(0)
        for number, stream in enumerate(streams):
            volume = 0 if number in silent else 32767
            frame = av.AudioFrame.from_ndarray(
                (SAMPLES[None] * volume).astype("<i2"), format="s16", layout="mono"
            )
            frame.sample_rate = RATE
            resampler, fifo = av.AudioResampler(stream.format, layout, rate), av.AudioFifo()
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                fifo.write(part)
            done = 0
            for part in fifo.read_many(stream.codec_context.frame_size or 1024, partial=True):
                later = hole[1] if done >= hole[0] * rate else 0
                part.pts, part.time_base = done + round(later * rate), Fraction(1, rate)
                done += part.samples
                output.mux(stream.encode(part))
            output.mux(stream.encode())
        if picture:
            for number in range(20):
                image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
                image.pts = number
                output.mux(picture.encode(image))
            output.mux(picture.encode())
    return path


def read(path: str | Path) -> np.ndarray:
    return np.concatenate(list(open_audio(path, RATE).blocks()))


def lag(samples: np.ndarray, reference: np.ndarray = SAMPLES) -> tuple[float, float]:
    """Seconds by which `samples` come later than the reference, and their correlation there."""
    size = 1 << (len(samples) + len(reference)).bit_length()
    products = np.fft.irfft(
        np.fft.rfft(samples, size) * np.conj(np.fft.rfft(reference, size)), size
    )
    best = int(products.argmax())
    strength = products[best] / np.linalg.norm(samples) / np.linalg.norm(reference)
    return (best if best < size // 2 else best - size) / RATE, float(strength)


@pytest.fixture
def transcribe(run, tiny_artifact):
    return lambda *arguments: run("transcribe", "-m", tiny_artifact, *arguments)


@pytest.mark.parametrize(
    ("name", "codec", "options", "notes"),
    [
        ("a.m4a", "aac", {}, ()),
        ("a.m4a", "aac", {"movflags": "faststart"}, ()),
        ("a.m4a", "alac", {}, ()),
        ("a.aac", "aac", {}, ()),
        ("a.mp4", "aac", {"video": "mpeg4"}, ()),
        (
            "a.mkv",
            "libopus",
            {"rate": 48000, "video": "mpeg4"},
            ("resampled from 48000 Hz to 16000 Hz",),
        ),
        ("a.webm", "libopus", {"rate": 48000}, ("resampled from 48000 Hz to 16000 Hz",)),
        ("a.avi", "pcm_s16le", {"video": "mpeg4"}, ()),
        (
            "a.mov",
            "aac",
            {"rate": 44100, "layout": "stereo"},
            ("resampled from 44100 Hz to 16000 Hz", "2 channels averaged"),
        ),
    ],
)
def test_the_sound_of_every_container(name, codec, options, notes, tmp_path):
    path = write_media(tmp_path / name, codec, **options)
    source = open_audio(path, RATE)
    assert source.notes == notes
    later, strength = lag(read(path))
    assert strength > 0.98  # of lossy codecs
    assert abs(later) < SEEK_SECONDS
    assert abs(source.duration - len(SAMPLES) / RATE) < SEEK_SECONDS


def test_a_name_that_says_otherwise(tmp_path):
    path = write_media(tmp_path / "a.mp4", "aac", video="mpeg4").rename(tmp_path / "a.wav")
    assert lag(read(path))[1] > 0.98


@pytest.mark.parametrize(("name", "codec"), [("clip.m4a", "aac"), ("clip.webm", "libopus")])
def test_transcript_of_media(name, codec, tmp_path, transcribe):
    write_media(
        tmp_path / name, codec, video="libvpx" if name.endswith("webm") else None, rate=48000
    )
    result = transcribe(tmp_path)  # found in its folder
    assert (result.code, result.out) == (0, TEXT + "\n")


@pytest.fixture
def host():
    """A port of this machine that nobody is to call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "name",
    [
        "http:127.0.0.1:PORT?x.m4a",
        "tcp:127.0.0.1:PORT?x.m4a",
        "concat:secret.mka|secret.mka.m4a",
        "subfile,,start,0,end,0,,:secret.mka.m4a",
        "file:secret.mka.m4a",
        "pipe:0.m4a",
        "data:audio,x.m4a",
        "call:1.m4a",
        "-x.m4a",
        "%03d.m4a",
        "weird \"name'.m4a",
    ],
)
def test_a_name_is_no_address(name, host, tmp_path, monkeypatch):
    write_media(tmp_path / "secret.mka", "pcm_s16le", rate=8000)
    path = write_media(tmp_path / "plain.m4a", "aac").rename(
        tmp_path / name.replace("PORT", str(host))
    )
    monkeypatch.chdir(tmp_path)
    for found in (path.name, *find_audio(["*.m4a", "."])[::2]):
        assert lag(read(found))[1] > 0.98


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile secret.mka\n",
        "ffconcat version 1.0\nfile http://127.0.0.1:PORT/a.m4a\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nFOLDER/secret.mka\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nhttp://127.0.0.1:PORT/a\n#EXT-X-ENDLIST\n",
        "[Reference]\nRef1=http://127.0.0.1:PORT/a\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="audio/mp4">'
        '<Representation id="a" bandwidth="64000"><BaseURL>http://127.0.0.1:PORT/a</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["concat", "concat-http", "sdp", "hls", "hls-http", "asf-reference", "dash"],
)
@pytest.mark.parametrize("suffix", [".m4a", ".mov", ".wma"])
def test_content_that_refers_elsewhere(content, suffix, host, tmp_path, monkeypatch):
    write_media(tmp_path / "secret.mka", "pcm_s16le")
    content = content.replace("PORT", str(host)).replace("FOLDER", str(tmp_path))
    (tmp_path / f"a{suffix}").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError, match="not a readable audio file"):
        open_audio(f"a{suffix}", RATE)


def test_pictures_are_not_decoded(tmp_path):
    """One of 300 kB would take 300 MB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big")
            + name
            + content
            + zlib.crc32(name + content).to_bytes(4, "big")
        )

    size, packer = 10_000, zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 3 * size)) for _ in range(size)) + packer.flush()
    header = size.to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    picture = av.Packet(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    output: Any
    with av.open(str(tmp_path / "a.avi"), "w") as output:
        track = output.add_stream("png", rate=1)
        track.width = track.height = size
        track.pix_fmt = "rgb24"
        output.add_stream("pcm_s16le", rate=RATE, layout="mono")
        picture.stream, picture.pts, picture.dts = track, 0, 0
        picture.time_base = Fraction(1, 1)
        output.mux(picture)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is taken now
    before = resident_memory()
    with pytest.raises(AudioError, match="0 samples"):
        open_audio(tmp_path / "a.avi", RATE)
    assert peak_memory() - before < 100 << 20


@pytest.mark.parametrize("codec", ["pcm_s16le", "flac"])
def test_a_rate_of_no_recording(codec, tmp_path):
    path = write_media(tmp_path / "a.mkv", "pcm_s16le", rate=1000)
    content = path.read_bytes()
    before = b"\xb5\x88" + np.array(1000, ">f8").tobytes()
    assert before in content
    path.write_bytes(content.replace(before, b"\xb5\x88" + np.array(100, ">f8").tobytes()))
    with pytest.raises(AudioError, match=r"a.mkv: expected 1000 to 768000 Hz, got 100"):
        open_audio(path, RATE)


def test_names_in_another_encoding(tmp_path):
    """Old writers give titles in the encoding of their machine."""
    path = write_media(tmp_path / "a.mka", "pcm_s16le")
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.avi"), "w") as output:
        output.metadata["title"] = "Cafe"
        track = output.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for frame in source.decode(audio=0):
            output.mux(track.encode(frame))
    content = (tmp_path / "b.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(content.replace(b"Cafe", b"Caf\xe9"))
    assert lag(read(tmp_path / "b.avi"))[1] > 0.98


def test_offsets_beyond_any_file(tmp_path, capfd):
    """PyAV prints the traceback of a seek that fails."""
    header = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"N" * 8 + b"\1\0\0\0\1\2"
    (tmp_path / "a.wma").write_bytes(header + (bytes(16) + b"N" * 8) * 20)
    with pytest.raises(AudioError):
        open_audio(tmp_path / "a.wma", RATE)
    assert capfd.readouterr().err == ""


def test_holes_of_many_hours(tmp_path, monkeypatch):
    """Each takes a few bytes and as long to transcribe as speech."""
    monkeypatch.setattr(media, "LONGEST_SILENCE", 3600)
    output: Any
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        track = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number in range(3):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), "<i2"), "s16", "mono")
            frame.sample_rate, frame.time_base = 8000, Fraction(1, 8000)
            frame.pts = number * 2000 * 8000
            output.mux(track.encode(frame))
    with pytest.raises(AudioError, match=r"holds no sound for more than 1 h in all"):
        open_audio(tmp_path / "a.mkv", RATE)


def test_media_through_a_pipe(tmp_path, process, tiny_artifact):
    content = write_media(tmp_path / "a.m4a", "aac").read_bytes()
    result = process("transcribe", "-m", tiny_artifact, "-", input=content)
    assert (result.code, result.out) == (0, TEXT + "\n")


def test_blocks_are_whole_and_end_anywhere(tmp_path):
    source = open_audio(write_media(tmp_path / "a.m4a", "aac"), RATE)
    *whole, last = [len(block) for block in source.blocks()]
    assert set(whole) == {int(BLOCK_SECONDS * RATE)}
    assert 0 < last < whole[0]


@pytest.mark.parametrize(("at", "seconds"), [(0, 1.5), (1, 1.5), (1, 0.05)])
def test_what_a_track_leaves_out_is_silence(at, seconds, tmp_path):
    path = write_media(tmp_path / "a.mkv", "pcm_s16le", video="mpeg4", hole=(at, seconds))
    samples, source = read(path), open_audio(path, RATE)
    if seconds < 0.1:  # a matter of rounded time stamps
        assert source.notes == () and len(samples) == len(SAMPLES)
        return
    assert source.notes == ("holds no sound for 1.5 s in all, which are silence now",)
    assert abs(len(samples) - len(SAMPLES) - seconds * RATE) < 100
    cut = int(at * RATE) // 1024 * 1024
    assert abs(lag(samples[int((at + seconds) * RATE) - 2048 :], SAMPLES[cut:])[0]) < 0.2
    assert not samples[int((at + 0.2) * RATE) : int((at + 1.2) * RATE)].any()


def test_first_of_several_tracks(tmp_path):
    source = open_audio(write_media(tmp_path / "a.mkv", "pcm_s16le", "aac"), RATE)
    assert source.notes == ("the first of 2 audio tracks",)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "aac"), ("a.mp4", "aac"), ("a.mov", "pcm_s16le"), ("a.ts", "aac")],
)
def test_a_silent_track_hides_no_other(name, codec, tmp_path):
    path = write_media(tmp_path / name, codec, codec, video="mpeg4", silent=(0,))
    source = open_audio(path, RATE)
    assert source.notes == ("audio track 2 of 2: track 1 is silent",) and source.losses == ()
    assert lag(read(path))[1] > 0.98
    path = write_media(tmp_path / name, codec, codec, codec, silent=(0, 1, 2))
    assert open_audio(path, RATE).notes == ("the first of 3 audio tracks", "digital silence")
    path = write_media(tmp_path / name, codec, codec, silent=(1,))
    assert open_audio(path, RATE).notes == ("the first of 2 audio tracks",)
    assert lag(read(path))[1] > 0.98


def test_the_default_track_is_taken(tmp_path):
    path = write_media(tmp_path / "a.mkv", "aac", "aac", silent=(), default=1)
    assert open_audio(path, RATE).notes == ("audio track 2 of 2, its default",)
    path = write_media(tmp_path / "a.mkv", "aac", "aac", silent=(1,), default=1)
    assert open_audio(path, RATE).notes == ("audio track 1 of 2: track 2 is silent",)
    assert lag(read(path))[1] > 0.98


def test_video_without_sound(tmp_path, transcribe):
    write_media(tmp_path / "a.mp4", video="mpeg4")
    transcribe(tmp_path / "a.mp4").assert_refused(
        6, "a.mp4: no sound: the file holds video and no audio track"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 bytes"),
        (b"hello", "not a readable audio file"),
        (bytes(5000), "not a readable audio file"),
    ],
)
def test_no_media_behind_the_name(content, words, tmp_path, transcribe):
    (tmp_path / "a.m4a").write_bytes(content)
    transcribe(tmp_path / "a.m4a").assert_refused(6, "a.m4a: ", words)


@pytest.mark.parametrize("part", [3, 4])
def test_damaged_packets_are_passed_over(part, tmp_path, transcribe):
    path = write_media(tmp_path / "a.m4a", "aac", movflags="faststart")
    content = bytearray(path.read_bytes())
    at = len(content) // part
    content[at : at + 800] = np.random.default_rng(0).bytes(800)
    path.write_bytes(content)
    samples, source = read(path), open_audio(path, RATE)
    [loss] = source.losses
    assert re.match(r"damaged at \d\.\d s(, \d\.\d s)? \(Invalid data", loss)
    assert abs(len(samples) - len(SAMPLES)) < SEEK_SECONDS * RATE  # what is lost is silence
    tail = len(SAMPLES) // 2
    assert lag(samples[-tail - 2048 :], SAMPLES[-tail:])[1] > 0.9
    result = transcribe(path)
    assert (result.code, bool(result.out.strip())) == (6, True)
    assert f"error: {path}: {loss}" in result.err


def test_nothing_but_damaged_packets(tmp_path, transcribe):
    path = write_media(tmp_path / "a.m4a", "aac", movflags="faststart")
    content = path.read_bytes()
    at = content.index(b"mdat") + 4
    path.write_bytes(content[:at] + np.random.default_rng(1).bytes(len(content) - at))
    transcribe(path).assert_refused(6, f"{path}: nothing can be heard: damaged at 0.0 s")


def test_cut_off_with_its_index(tmp_path, transcribe):
    path = write_media(tmp_path / "a.m4a", "aac")
    path.write_bytes(path.read_bytes()[:5000])
    transcribe(path).assert_refused(6, f"{path}: not a readable audio file")


def test_cut_off_behind_its_index(tmp_path, transcribe):
    path = write_media(tmp_path / "a.m4a", "aac", movflags="faststart")
    path.write_bytes(path.read_bytes()[:-5000])
    result = transcribe(path)
    assert result.code == 6 and TEXT.startswith(result.out.strip()[:10])
    assert f"error: {path}: damaged at 1." in result.err


def test_cut_off_stream_is_said(tmp_path):
    path = write_media(tmp_path / "a.webm", "libopus", rate=48000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    [loss] = open_audio(path, RATE).losses
    assert loss.startswith("cut off: the header promises 2.2 s, the file holds ")


def test_without_pyav(tmp_path, transcribe, monkeypatch):
    write_media(tmp_path / "a.m4a", "aac")
    (tmp_path / "a.wav").write_bytes(CLIP.read_bytes())
    monkeypatch.setitem(sys.modules, "av", None)
    transcribe(tmp_path / "a.m4a").assert_refused(
        7, "a.m4a: libsndfile does not read", "'voxtral-onnx[media]'"
    )
    result = transcribe(tmp_path / "a.m4a", tmp_path / "a.wav")
    assert (result.code, result.out) == (10, f"==> {tmp_path / 'a.wav'} <==\n{TEXT}\n")
    with pytest.raises(DeviceError):
        open_audio(tmp_path / "a.m4a", RATE)


def test_rate_and_channels_that_change(tmp_path):
    """Joined recordings: the second becomes like the first, and no word of it is lost."""
    first, second = (
        write_media(tmp_path / f"{rate}.aac", "aac", rate=rate, layout=layout).read_bytes()
        for rate, layout in ((16000, "mono"), (32000, "stereo"))
    )
    (tmp_path / "a.aac").write_bytes(first + second)
    samples = read(tmp_path / "a.aac")
    half = len(samples) // 2
    assert abs(len(samples) - 2 * len(SAMPLES)) < 2 * SEEK_SECONDS * RATE
    assert lag(samples[:half])[1] > 0.98 and lag(samples[half:])[1] > 0.98


def test_a_track_without_a_sample(tmp_path, transcribe):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        container.start_encoding()
    transcribe(tmp_path / "a.avi").assert_refused(6, "a.avi: no sound: it holds 0 samples")


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mpegts", "aac", 16000),
        ("caf", "alac", 16000),
        ("tta", "tta", 16000),
        ("eac3", "eac3", 48000),
        ("mpeg", "mp2", 16000),
        ("adts", "aac", 16000),
        ("nut", "flac", 16000),
        ("spdif", "ac3", 48000),
        ("wav", "adpcm_g726", 8000),
        ("adx", "adpcm_adx", 16000),
        ("mxf_opatom", "pcm_s16le", 48000),
    ],
)
@pytest.mark.parametrize("name", ["sound", "sound.wav", "sound.mp3"])
def test_a_name_decides_nothing(name, container, codec, rate, tmp_path):
    written = write_media(tmp_path / "a.bin", codec, rate=rate, container=container)
    samples = read(written.rename(tmp_path / name))
    assert lag(samples)[1] > (0.9 if rate == 8000 else 0.98)


@pytest.mark.parametrize("container", ["mp4", "matroska", "asf"])
def test_joined_containers(container, tmp_path):
    codec = {"mp4": "aac", "matroska": "libopus", "asf": "pcm_s16le"}[container]
    rate = 48000 if codec == "libopus" else 16000
    content = write_media(tmp_path / "a", codec, rate=rate, container=container).read_bytes()
    (tmp_path / "ab").write_bytes(content * 2)
    source = open_audio(tmp_path / "ab", RATE)
    assert source.losses == () and "2 recordings, one after the other" in source.notes
    samples = np.concatenate(list(source.blocks()))
    half = len(samples) // 2
    assert lag(samples[:half])[1] > 0.98 and lag(samples[half:])[1] > 0.98


@pytest.mark.parametrize(
    ("container", "codec", "rate", "tags"),
    [
        ("adts", "aac", 16000, True),
        ("ac3", "ac3", 44100, True),
        ("eac3", "eac3", 48000, True),
        ("mp2", "mp2", 44100, True),
        ("mp3", "libmp3lame", 16000, True),
        ("mpegts", "mp2", 48000, False),
        ("flv", "aac", 44100, True),
    ],
)
def test_cut_off_inside_a_frame(container, codec, rate, tags, tmp_path):
    options: Any = {"write_xing": "0"} if container == "mp3" else {}
    path = write_media(tmp_path / "a", codec, rate=rate, container=container, **options)
    whole = path.read_bytes()
    for behind in (b"", *([b"TAG" + bytes(125), bytes(3), bytes(3000)] if tags else [])):
        path.write_bytes(whole + behind)
        assert open_audio(path, RATE).losses == ()
    for missing in (5, 50, 188):
        path.write_bytes(whole[:-missing])
        [loss] = open_audio(path, RATE).losses
        assert "it ends inside a frame: it may be cut off" in loss or "cut off: the header" in loss
    if tags and container != "flv":
        path.write_bytes(whole[:-50] + b"TAG" + bytes(125))
        assert open_audio(path, RATE).losses == ("it ends inside a frame: it may be cut off",)
