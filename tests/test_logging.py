"""A program that uses the library finds in its own log what the command line shows."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from support.sounds import SAMPLES, encoded

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime import guard
from voxtral_onnx.runtime.locate import find_artifact

SILENT_PROGRAM = """
import logging, sys
import voxtral_onnx
logger = logging.getLogger("voxtral_onnx")
assert [type(each) for each in logger.handlers] == [logging.NullHandler], logger.handlers
assert not logging.root.handlers and logger.level == logging.NOTSET and logger.propagate
transcriber = voxtral_onnx.Transcriber(sys.argv[1], precision="q4", context=100_000)
transcript = transcriber.transcribe(sys.argv[2])
assert transcript.text and transcript.losses and transcriber.notes
"""


@pytest.fixture
def log(caplog):
    """Return the messages of a level so far."""
    caplog.set_level(logging.DEBUG, "voxtral_onnx")

    def messages(level: int) -> list[str]:
        assert all(record.name.startswith("voxtral_onnx.") for record in caplog.records)
        return [record.getMessage() for record in caplog.records if record.levelno == level]

    return messages


def test_a_load_is_logged_with_its_notes(tiny_artifact, log):
    with Transcriber(tiny_artifact, precision="q4", delay_ms=2400, context=100_000) as transcriber:
        [note] = transcriber.notes
    loaded, *notes = log(logging.INFO)
    assert loaded == f"{tiny_artifact}: q4 on cpu"
    assert notes[0] == f"{tiny_artifact}: {note}" and "context" in note
    assert "not trained with a delay of 2400 ms" in notes[-1]
    [timing] = log(logging.DEBUG)
    assert timing.startswith(f"{tiny_artifact}: loaded in ")
    assert not log(logging.WARNING)


def test_a_kept_silence_that_is_damaged_is_logged(artifact, tmp_path, log, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Transcriber(artifact) as transcriber:
        transcriber.stream()
    next(tmp_path.rglob("*.stream")).write_bytes(b"damaged")
    assert not any("computed again" in line for line in log(logging.INFO))
    with Transcriber(artifact) as transcriber:
        transcriber.stream()
    assert sum("computed again" in line for line in log(logging.INFO)) == 1


def test_hashes_that_cannot_be_kept_are_logged(artifact, tmp_path, log, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Transcriber(artifact).close()
    assert sum("hashes cannot be kept" in line for line in log(logging.INFO)) == 1


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_recording_is_logged_without_its_words(tiny_artifact, log, caplog, batch_size):
    content = encoded("wav", np.repeat(SAMPLES, 2), 32000)
    options = {"precision": "q4", "batch_size": batch_size, "hotwords": ["bathroom"]}
    with Transcriber(tiny_artifact, **options) as transcriber:
        caplog.clear()
        [transcript] = transcriber.transcribe_many([content[: -len(content) // 10]])
        words = transcript.text.split()
        assert list(transcript) and transcript.losses  # iterated again, and logged once
    name = transcript.source.name
    assert log(logging.INFO) == [f"{name}: {note}" for note in transcript.source.notes] != []
    assert log(logging.WARNING) == [f"{name}: {loss}" for loss in transcript.losses]
    [timing] = log(logging.DEBUG)
    assert timing.startswith(f"{name}: encoded in ")
    assert {"bathroom", "music"} < {*words}
    assert "bathroom" not in caplog.text and "music" not in caplog.text


def test_the_blank_guard_is_logged(tiny_artifact, log, caplog, monkeypatch):
    monkeypatch.setattr(guard, "BLANKS_UNPENALISED", 4)
    monkeypatch.setattr(guard, "BLANK_PENALTY_STEP", 1e4)
    monkeypatch.setattr(guard, "MAX_BLANK_PENALTY", 1e4)
    with Transcriber(tiny_artifact, precision="fp32") as transcriber:
        caplog.clear()
        stream = transcriber.stream()
        stream.feed(np.zeros(16000, np.float32))
    seconds_of = stream.writer.seconds_of
    assert log(logging.INFO) == [
        f"blank guard: text at {seconds_of(each.index):.1f} s, after {each.blanks} blanks"
        for each in stream.overrides
    ]
    assert stream.overrides


def test_a_download_is_logged_once(hub_server, tiny_artifact, log, caplog):
    hub_server.publish("some-org/tiny-onnx", tiny_artifact)
    folder = find_artifact("some-org/tiny-onnx", ["q4"])
    begun, ended = log(logging.INFO)[-2:]
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    size -= (folder / "voxtral_onnx.json").stat().st_size  # downloaded before the others
    assert begun == f"some-org/tiny-onnx: downloading {size / 1e6:.1f} MB"
    assert ended.startswith(f"some-org/tiny-onnx: {size / 1e6:.1f} MB downloaded in ")
    caplog.clear()
    find_artifact("some-org/tiny-onnx", ["q4"])
    assert not log(logging.INFO)


def test_a_program_without_handlers_is_told_nothing(tiny_artifact, tmp_path):
    soundfile.write(clip := tmp_path / "cut.wav", SAMPLES, 16000)
    clip.write_bytes(clip.read_bytes()[:-10_000])
    command = [sys.executable, "-c", SILENT_PROGRAM, str(tiny_artifact), str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
