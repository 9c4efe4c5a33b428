"""Which library reads a file is asked of its bytes; what neither reads is said in a line."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.sounds import RATE, SAMPLES, decoded, encoded

from voxtral_onnx.errors import AudioError, DeviceError
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
