"""The artifact that is meant, and weights that change while they are mapped, which are refused."""

from __future__ import annotations

import os
import shutil

import pytest
from support.commands import CLIP, TEXT

from voxtral_onnx import Transcriber, limits
from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.runtime.locate import find_artifact, remember_export
from voxtral_onnx.runtime.stream import Stream


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


@pytest.fixture
def weights(artifact):
    [path] = (artifact / "onnx").glob("decoder_model_merged*_data")
    return path


def test_weights_that_are_written_into_are_refused(artifact, weights):
    with Transcriber(artifact, "cpu") as transcriber:
        assert transcriber.transcribe(CLIP).text == TEXT
        with weights.open("r+b") as file:
            file.seek(1000)
            file.write(bytes(range(256)))
        with pytest.raises(ArtifactError, match="_data: changed while it was in use"):
            transcriber.transcribe(CLIP).text  # noqa: B018, which decodes
        with pytest.raises(ArtifactError, match="changed while it was in use"):
            transcriber.stream().finish()


def test_weights_that_change_between_blocks(artifact, weights, run, monkeypatch):
    """The words so far are shown, and the exit code is the artifact's."""
    encode, left = Stream.encode, iter((2, 1, 0))

    def encoding(stream, samples):
        if next(left, None) == 0:
            os.truncate(weights, weights.stat().st_size + 1)
        return encode(stream, samples)

    monkeypatch.setattr(Stream, "encode", encoding)
    result = run("transcribe", "-m", artifact, CLIP)
    assert result.code == 4
    assert TEXT.startswith(result.out.strip())
    assert "changed while it was in use" in result.err and "Traceback" not in result.err


def test_weights_that_are_touched_replaced_or_deleted_stay_what_they_were(artifact, weights):
    with Transcriber(artifact, "cpu") as transcriber:
        os.utime(weights)
        assert transcriber.transcribe(CLIP).text == TEXT
        other = shutil.copyfile(weights, weights.with_suffix(".other"))
        with other.open("r+b") as file:
            file.write(bytes(100_000))
        other.replace(weights)
        assert transcriber.transcribe(CLIP).text == TEXT
        weights.unlink()
        assert transcriber.transcribe(CLIP).text == TEXT
