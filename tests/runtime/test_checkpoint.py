"""A stream that another process goes on with tells what one that nobody killed tells."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import numpy as np
import pytest
import soundfile
from commands import CLIP, TEXT

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import ArtifactError, StorageError
from voxtral_onnx.runtime.checkpoint import Checkpoint
from voxtral_onnx.runtime.live import Capture, Meter, Notice, Silence, listen
from voxtral_onnx.runtime.stream import Token

SAMPLES = soundfile.read(CLIP, dtype="float32")[0]


@pytest.fixture(scope="module")
def transcriber(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", precision="fp32", alternatives=2) as transcriber:
        yield transcriber


def blocks(samples, size=1280):
    return iter([samples[start : start + size] for start in range(0, len(samples), size)])


def told(transcriber, samples, path=None, seconds=0.0):
    """Events, silences and notices left out, and the meter."""
    events, meter = [], Meter()
    checkpoint = Checkpoint(path, transcriber, seconds) if path else None
    stream = checkpoint.stream if checkpoint else transcriber.stream()
    listen(stream, Capture(blocks(samples)), meter, events.append, checkpoint=checkpoint)
    return [event for event in events if not isinstance(event, Notice | Silence)], meter


def facts(event):
    """Of a token or a group, without its probabilities."""
    values = {name: value for name, value in asdict(event).items() if "log" not in name and "margin" not in name}
    ids = [alternative["token_id"] for alternative in values.pop("alternatives") if isinstance(event, Token)]
    return type(event), values, ids


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.03, 2.1])
def test_what_is_told_is_what_one_process_tells(transcriber, tmp_path, seconds):
    """Tokens with their alternatives, and groups, which may be open where the first process ends.

    Capture decides how many tokens the encoder takes at once, so probabilities differ in their last digits.
    """
    cut, path = int(16000 * seconds), tmp_path / "state"
    whole, _ = told(transcriber, SAMPLES)
    told(transcriber, SAMPLES[:cut], path)
    rest, meter = told(transcriber, SAMPLES[cut:], path)
    assert list(map(facts, rest)) == list(map(facts, whole))
    assert "".join(event.text for event in rest if isinstance(event, Token)).strip() == TEXT
    assert meter.captured == pytest.approx(len(SAMPLES) / 16000)
    assert meter.resumed == pytest.approx(cut / 16000)
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_the_end_of_the_audio_is_not_in_the_file(transcriber, tmp_path):
    told(transcriber, SAMPLES[:16000], tmp_path / "state")
    stream = Checkpoint(tmp_path / "state", transcriber).stream
    assert stream.num_samples == 16000 and not stream.finished


def test_a_file_is_there_at_once_and_written_when_it_is_due(transcriber, tmp_path):
    checkpoint = Checkpoint(tmp_path / "state", transcriber, seconds=1e9)
    assert Checkpoint(tmp_path / "state", transcriber).stream.num_samples == 0
    checkpoint.stream.feed(SAMPLES)
    assert not checkpoint.is_due
    checkpoint.write()
    assert Checkpoint(tmp_path / "state", transcriber, seconds=0).is_due
    assert Checkpoint(tmp_path / "state", transcriber).stream.num_samples == len(SAMPLES)


def test_another_setting_is_refused_and_its_file_kept(tiny_artifact, transcriber, tmp_path):
    told(transcriber, SAMPLES[:16000], tmp_path / "state")
    content = (tmp_path / "state").read_bytes()
    with (
        Transcriber(tiny_artifact, "cpu", precision="q4f16") as other,
        pytest.raises(ArtifactError, match="saved with another artifact, precision"),
    ):
        Checkpoint(tmp_path / "state", other)
    assert (tmp_path / "state").read_bytes() == content


def test_a_file_that_cannot_be_written(transcriber, tmp_path):
    """Found before anything is heard; later it is told, costs no text, and is an error at the end."""
    with pytest.raises(StorageError, match="cannot be written"):
        Checkpoint(tmp_path / "absent" / "state", transcriber)
    folder, events = tmp_path / "folder", []
    folder.mkdir()
    checkpoint = Checkpoint(folder / "state", transcriber, seconds=0)
    shutil.rmtree(folder)
    with pytest.raises(StorageError, match="state: cannot be written"):
        listen(checkpoint.stream, Capture(blocks(SAMPLES)), Meter(), events.append, checkpoint=checkpoint)
    assert any(isinstance(event, Notice) and "cannot be written" in event.text for event in events)
    assert "".join(event.text for event in events if isinstance(event, Token)).strip() == TEXT


def test_a_file_of_the_python_interface_has_no_words(transcriber, tmp_path):
    stream = transcriber.stream()
    stream.feed(np.zeros(1600, np.float32))
    stream.save(tmp_path / "state")
    assert Checkpoint(tmp_path / "state", transcriber).tokens == []
