"""Saved packed weights are the same model, made once, and never half."""

import json
import os
from pathlib import Path

import pytest
from reference import toy

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import ArtifactError, DeviceError, StorageError
from voxtral_onnx.runtime import memory


@pytest.mark.parametrize("precision", ["q4", "q4f16", "fp32"])
def test_same_tokens_and_made_once(tiny_artifact, tmp_path, precision):
    samples = toy.babble(4.0)
    with Transcriber(tiny_artifact, precision=precision) as transcriber:
        expected = transcriber.transcribe(samples).token_ids
    cache = tmp_path / "cache"
    with Transcriber(tiny_artifact, precision=precision, prepacked=cache) as transcriber:
        assert transcriber.transcribe(samples).token_ids == expected
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert len(made) == 8 and not any(".partial" in path.name for path in made)
    with Transcriber(tiny_artifact, precision=precision, prepacked=cache) as transcriber:
        assert transcriber.transcribe(samples).token_ids == expected
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == made


def test_another_artifact_has_a_form_of_its_own(tiny_artifact, toy_artifact, tmp_path):
    for artifact in (tiny_artifact, toy_artifact):
        with Transcriber(artifact, precision="q4", prepacked=tmp_path):
            pass
    assert len(list(tmp_path.iterdir())) == 4


def test_a_full_disk_leaves_nothing(tiny_artifact, tmpfs):
    folder: Path = tmpfs("size=2m")
    with pytest.raises(StorageError):
        Transcriber(tiny_artifact, precision="q4", prepacked=folder / "cache")
    assert not list((folder / "cache").iterdir())


def test_packing_needs_memory_and_what_is_packed_does_not(tiny_artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 20)
    with pytest.raises(DeviceError, match=r"memory: q4 .* needs about"):
        Transcriber(tiny_artifact, precision="q4", prepacked=tmp_path)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as plenty:
        plenty.setattr(memory, "available_memory", lambda: 1 << 40)
        Transcriber(tiny_artifact, precision="q4", prepacked=tmp_path).close()
    Transcriber(tiny_artifact, precision="q4", prepacked=tmp_path).close()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.data", flip),
        ("weights.data", lambda path: os.truncate(path, 4096)),
        ("weights.data", lambda path: path.unlink()),
        ("model.onnx", flip),
        ("checksums.json", flip),
        ("checksums.json", lambda path: path.unlink()),  # as earlier versions saved it
        ("checksums.json", lambda path: path.write_text(json.dumps({"files": {}}))),
    ],
)
def test_damaged_weights_are_packed_anew_and_that_is_said(artifact, tmp_path, name, damage):
    cache = tmp_path / "cache"
    with Transcriber(artifact, prepacked=cache) as transcriber:
        expected = transcriber.transcribe(toy.babble(1.0)).token_ids
        assert transcriber.notes == ()
    before = {path.name: path.read_bytes() for path in sorted(cache.glob("decoder*/*"))}
    [path] = cache.glob(f"decoder*/{name}")
    damage(path)
    with Transcriber(artifact, prepacked=cache) as transcriber:
        assert transcriber.transcribe(toy.babble(1.0)).token_ids == expected
        [note] = transcriber.notes
    assert note.startswith("saved packed weights are damaged and are made anew: ") and name in note
    assert {path.name: path.read_bytes() for path in sorted(cache.glob("decoder*/*"))} == before
    with Transcriber(artifact, prepacked=cache) as transcriber:
        assert transcriber.notes == ()


def test_damaged_weights_are_not_packed(artifact, tmp_path):
    flip(next((artifact / "onnx").glob("decoder*_data")))
    with pytest.raises(ArtifactError, match="got other bytes"):
        Transcriber(artifact, prepacked=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/decoder*"))
