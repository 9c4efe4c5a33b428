"""Saved packed weights are the same model, made once, and never half."""

from pathlib import Path

import pytest
from reference import toy

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import DeviceError, StorageError
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
    assert len(made) == 6 and not any(".partial" in path.name for path in made)
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
