"""Frames are decoded once where they fit into memory, and are the same twice where not."""

from __future__ import annotations

import numpy as np
import pytest
from support.sounds import RATE, SAMPLES, encoded

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.container import frames
from voxtral_onnx.runtime.audio.files import open_audio


@pytest.fixture(params=[True, False], ids=["kept", "decoded-again"])
def is_kept(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(frames, "KEPT_SAMPLES", 10_000)
    return request.param


def read(source) -> np.ndarray:
    return np.concatenate(list(source.blocks()))


def test_a_file_is_decoded_once_where_it_can_be(is_kept, tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded("wav"))
    source = open_audio(tmp_path / "a.wav", RATE)
    assert np.array_equal(read(source), SAMPLES) and np.array_equal(read(source), SAMPLES)
    (tmp_path / "a.wav").unlink()
    if is_kept:
        assert np.array_equal(read(source), SAMPLES)
    else:
        with pytest.raises(AudioError, match=r"a.wav: cannot be read"):
            read(source)


def test_a_file_that_grows_ends_where_it_ended_at_first(is_kept, tmp_path):
    path, half = tmp_path / "a.wav", len(SAMPLES) // 2
    path.write_bytes(encoded("wav", SAMPLES[:half]))
    source = open_audio(path, RATE)
    with path.open("r+b") as file:
        file.write(encoded("wav"))
    assert np.array_equal(read(source), SAMPLES[:half])


@pytest.mark.parametrize("other", [SAMPLES[:16000], SAMPLES[::-1].copy()], ids=["shorter", "else"])
def test_a_file_that_becomes_another_is_said(other, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "KEPT_SAMPLES", 10_000)
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav"))
    source = open_audio(path, RATE)
    path.write_bytes(encoded("wav", other))
    with pytest.raises(AudioError, match=r"a.wav: changed while it was read, after 0.0 s"):
        read(source)


def test_two_channels_are_kept_as_two(is_kept, tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded("wav", np.stack((SAMPLES, -SAMPLES / 2), 1)))
    found = frames.Frames("a.wav", tmp_path / "a.wav")
    for _ in range(2):
        blocks = list(found.blocks(0.5))
        assert {block.shape for block in blocks[:-1]} == {(8000, 2)}
        assert np.concatenate(blocks).shape == (len(SAMPLES), 2)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.28, 100])
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_blocks_of_any_length_hold_the_same(kind, seconds, tmp_path):
    (tmp_path / "a").write_bytes(encoded(kind))
    found = frames.Frames("a", tmp_path / "a")
    for length in (1.28, seconds):
        blocks, size = list(found.blocks(length)), int(length * RATE)
        assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
        assert np.array_equal(np.concatenate(blocks)[:, 0], SAMPLES)
