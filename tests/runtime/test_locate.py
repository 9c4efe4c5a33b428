"""The artifact that is meant where none is named."""

from __future__ import annotations

import pytest
from support.commands import CLIP

from voxtral_onnx import export, limits, quantize
from voxtral_onnx.errors import ArtifactError, UsageError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.locate import choose_precisions, find_artifact, remember_export


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The file that remembers the last export."""
    monkeypatch.delenv("VOXTRAL_ONNX_MODEL", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    remember_export(tmp_path)
    [path] = (tmp_path / "state").rglob("state.json")
    return path


def test_last_export_is_remembered(state, tmp_path):
    assert find_artifact() == tmp_path


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b'{"last_export": 1}',
        b'{"last_export": ""}',
        b'{"last_export": "/a\\u0000b"}',
        b"[" * 60_000,
        b'{"last_export": "/tmp"}' + b" " * limits.STATE,
    ],
    ids=lambda damage: damage[:30].decode(),
)
def test_damaged_memory_of_the_last_export_is_none(damage, state):
    state.write_bytes(damage)
    with pytest.raises(ArtifactError, match="no model: name one"):
        find_artifact()


def test_a_precision_that_could_be_added_and_one_that_there_is_not(artifact, run):
    manifest = Manifest.read(artifact)
    with pytest.raises(UsageError, match=r"has q4f16, not 'q8'; add it: .*--precision q8$"):
        choose_precisions(manifest, ["q8"])
    there_are = "the artifact has q4f16, not 'int8'; there are q4f16, q4, q8, fp16, fp32"
    with pytest.raises(UsageError, match=f"{there_are}$"):
        choose_precisions(manifest, ["q4f16", "int8"])
    run("transcribe", "-m", artifact, "--precision", "int8", CLIP).assert_refused(2, there_are)


def test_precisions_are_looked_up_before_anything_is_read(tmp_path):
    known = r"expected some of \['q4f16', 'q4', 'q8', 'fp16', 'fp32'\], got 'int8'"
    for work in (export, quantize):
        with pytest.raises(UsageError, match=known):
            work("someone/nothing-of-the-kind", tmp_path / "out", precisions=["int8"])
