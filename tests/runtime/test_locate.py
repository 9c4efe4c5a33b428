"""The artifact that is meant where none is named."""

from __future__ import annotations

import pytest

from voxtral_onnx import limits
from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.runtime.locate import find_artifact, remember_export


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
