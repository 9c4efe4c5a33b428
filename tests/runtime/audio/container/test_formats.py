"""Which library reads a file is asked of its bytes; what neither reads is said in a line."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile
from support.media import contained
from support.sounds import RATE, SAMPLES, decoded, encoded

from voxtral_onnx.errors import AudioError, DeviceError
from voxtral_onnx.runtime.audio.container.kinds import compressed_inside
from voxtral_onnx.runtime.audio.files import open_audio


@pytest.mark.parametrize("with_pyav", [True, False])
def test_a_flac_damaged_in_the_middle(with_pyav, tmp_path, monkeypatch):
    if not with_pyav:
        monkeypatch.setitem(sys.modules, "av", None)
    content = bytearray(encoded("flac"))
    at = len(content) // 2
    content[at : at + 300] = np.random.default_rng(0).bytes(300)
    (tmp_path / "a.flac").write_bytes(content)
    source = open_audio(tmp_path / "a.flac", RATE)
    samples = np.concatenate(list(source.blocks()))
    assert source.losses[0].startswith("damaged at 0.8 s (")
    assert np.array_equal(samples[:12288], SAMPLES[:12288])
    if with_pyav:  # behind the damage all is in its time
        assert np.array_equal(samples[20480:], SAMPLES[20480:])
    else:
        assert len(samples) == 12288 and "PyAV may read more: pip install" in source.losses[1]


@pytest.mark.parametrize("with_pyav", [True, False])
def test_an_mp3_with_a_hole(with_pyav, tmp_path, monkeypatch, capfd):
    if not with_pyav:
        monkeypatch.setitem(sys.modules, "av", None)
    content = encoded("mp3")
    (tmp_path / "a.mp3").write_bytes(content[:5000] + bytes(1500) + content[6500:])
    source = open_audio(tmp_path / "a.mp3", RATE)
    assert source.losses and source.duration > 0.9
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("with_pyav", [True, False])
def test_samples_do_not_depend_on_the_decoder(with_pyav, tmp_path, monkeypatch, capfd):
    if not with_pyav:
        monkeypatch.setitem(sys.modules, "av", None)
    content = encoded("mp3")
    (tmp_path / "a.mp3").write_bytes(content)
    source = open_audio(tmp_path / "a.mp3", RATE)
    assert source.notes == source.losses == ()
    assert np.allclose(np.concatenate(list(source.blocks())), decoded(content), atol=1e-5)
    capfd.readouterr()  # of libsndfile's own reading
    open_audio(tmp_path / "a.mp3", RATE)
    assert capfd.readouterr().err == ""  # libmpg123 has lines of its own


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html><title>404</title></html>", "this is an HTML page"),
        (b'{"message": "not found"}', "this is JSON"),
        (b"%PDF-1.7\n\xe2\xe3\xcf\xd3\n", "this is a PDF"),
        (b"PK\x03\x04" + bytes(30), "this is a ZIP archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "this is a picture"),
        ("Grüße\n".encode("utf-16"), "this is text"),
        ("Grüße\n".encode("latin-1") * 3, "a: not a readable audio file"),
        (np.random.default_rng(0).bytes(99_999), "convert it first: ffmpeg"),
        (bytes(99_999), "convert it first: ffmpeg"),
    ],
    ids=["html", "json", "pdf", "zip", "png", "utf-16", "latin-1", "random", "zeros"],
)
def test_what_is_no_sound(content, words, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(AudioError, match=words):
        open_audio(tmp_path / "a", RATE)


def test_without_pyav_its_name_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.bin").write_bytes(b"TTA1" + bytes(100))
    with pytest.raises(DeviceError, match=r"pip install 'voxtral-onnx\[media\]'"):
        open_audio(tmp_path / "a.bin", RATE)
    (tmp_path / "a.m4a").write_bytes(b"just text, whatever it is called\n")
    with pytest.raises(AudioError, match="this is text"):
        open_audio(tmp_path / "a.m4a", RATE)


@pytest.mark.parametrize(
    "name", ["http://a/b.mp3", "https://youtu.be/x", "rtsp://a/b", "s3://a/b.wav", "HTTPS://A/B"]
)
def test_an_address_gets_a_sentence(name):
    with pytest.raises(AudioError, match="an address, and recordings are not downloaded; get it"):
        open_audio(name, RATE)


def as_samples(kind: str) -> bytes:
    """Return a digital output's compressed sound, as a recorder of samples takes it."""
    if kind == "spdif":
        return contained("spdif", "ac3", np.tile(SAMPLES, 2), 48000)
    content = contained("ac3", "ac3", np.tile(SAMPLES, 2), 48000)
    if kind == "ac3-swapped":
        return np.frombuffer(content, "<u2").byteswap().tobytes()
    return content


@pytest.mark.parametrize("kind", ["spdif", "ac3", "ac3-swapped"])
def test_compressed_sound_under_a_header_of_samples(kind, tmp_path, monkeypatch):
    """Where it is taken for samples it is noise, of which words are made."""
    content = as_samples(kind)
    values = np.frombuffer(content[: len(content) // 4 * 4], "<i2").reshape(-1, 2)
    soundfile.write(tmp_path / "a.wav", values, 48000, "PCM_16")
    source = open_audio(tmp_path / "a.wav", RATE)
    samples = np.concatenate(list(source.blocks()))
    assert source.losses == () and abs(len(samples) / RATE - 2 * len(SAMPLES) / RATE) < 0.1
    known = SAMPLES[8000:16000]
    assert np.correlate(samples, known).max() > 0.9 * np.square(known).sum()
    for name, seconds in (("a.flac", 0), ("a.aiff", 0), ("b.wav", 2)):  # PyAV looks for none there
        silence = np.zeros((seconds * 48000, 2), np.int16)
        soundfile.write(tmp_path / name, np.concatenate([silence, values]), 48000, "PCM_16")
        if kind == "ac3" or not seconds:
            with pytest.raises(AudioError, match=r"holds .* where its header promises samples"):
                open_audio(tmp_path / name, RATE)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DeviceError):
        open_audio(tmp_path / "a.wav", RATE)


@pytest.mark.parametrize("sync", ["7ffe8001", "fe7f0180", "1fffe80007f0", "ff1f00e8f007"])
def test_dts_in_every_spelling(sync):
    frames = b"".join(
        bytes.fromhex(sync) + np.random.default_rng(number).bytes(1000) for number in range(4)
    )
    assert compressed_inside(bytes(77) + frames) == "DTS"
    assert compressed_inside(np.random.default_rng(9).bytes(1 << 20)) is None
    assert compressed_inside((SAMPLES * 32767).astype("<i2").tobytes()) is None
    assert compressed_inside(np.array([32766, -32767] * 9000, ">i2").tobytes()) is None
