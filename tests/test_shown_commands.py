"""Commands and Python that pages show: all are understood, and what can run here does."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import typer
from support.commands import SAMPLES

from voxtral_onnx.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM: Any = typer.main.get_command(app.app)


def shown(language: str) -> list[tuple[str, str]]:
    """Return the fenced blocks in a language, with the names of their pages."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        (str(page.relative_to(ROOT)), block)
        for page in PAGES
        for block in fence.findall(page.read_text("utf-8"))
    ]


def shown_commands() -> list[tuple[str, str]]:
    found = []
    for page, block in shown(""):
        for line in block.splitlines():
            called = line.partition("#")[0].rpartition("|")[2].strip().removeprefix("$ ")
            if called.startswith("voxtral-onnx "):
                found.append((page, called.removeprefix("voxtral-onnx ")))
    return found


COMMANDS = shown_commands()


@pytest.mark.parametrize("page, called", COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_commands_are_understood(page, called):
    name, *arguments = shlex.split(called.replace("…", ""))
    PROGRAM.commands[name].make_context(name, arguments)


@pytest.fixture
def recordings(tmp_path, monkeypatch, tiny_artifact):
    """A folder with the files that pages name, each with a second of speech or more."""
    clip = SAMPLES / "command-hibari.wav"
    for name in ("clip.wav", "a.wav", "FILE", "recordings/one.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(clip, tmp_path / name)
    samples, rate = soundfile.read(clip)
    for name in ("b.mp3", "c.flac", "interview.mp4"):
        kind = {".mp4": "FLAC"}.get(Path(name).suffix)  # what it holds decides, not its name
        soundfile.write(tmp_path / name, samples, rate, format=kind)
    (tmp_path / "names.txt").write_text("bathroom\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOXTRAL_ONNX_MODEL", str(tiny_artifact))
    return tmp_path


HERE = {called for _, called in COMMANDS if called.startswith("transcribe")}


@pytest.mark.parametrize("called", sorted(each for each in HERE if "--engine ray" not in each))
def test_recordings_become_text(called, recordings, run):
    result = run(*shlex.split(called.replace("--model tiny", "")))
    assert result.code == 0, result.err
    written = " ".join(
        file.read_text("utf-8") for file in recordings.rglob("*.*") if is_output(file)
    )
    assert "bathroom" in result.out + written


def is_output(file: Path) -> bool:
    return file.suffix in (".txt", ".srt", ".vtt", ".tsv", ".json") and file.name != "names.txt"


@pytest.mark.parametrize(
    "page, block",
    [(page, block) for page, block in shown("python") if "transcriber" in block],
    ids=lambda value: value[:30],
)
def test_python_runs(page, block, recordings, tiny_artifact, capsys):
    def microphone():
        samples, _ = soundfile.read(recordings / "clip.wav", dtype="float32")
        yield from np.array_split(samples, 7)

    if "import" not in block:
        block = 'from voxtral_onnx import Transcriber\ntranscriber = Transcriber("tiny")\n' + block
    block = block.replace('Transcriber("tiny"', f'Transcriber("{tiny_artifact}"')
    exec(compile(block, page, "exec"), {"microphone": microphone})
    assert "bathroom" in capsys.readouterr().out


def test_results_have_the_schema_that_is_shown(recordings, run, tiny_artifact):
    schema = json.loads((ROOT / "docs" / "python" / "results.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    clip = str(recordings / "clip.wav")
    for options in ([], ["--alternatives", "2"], ["--channels", "split"]):
        found = json.loads(run("transcribe", clip, "--json", *options).out)
        jsonschema.validate(found, schema)
        assert found.keys() <= schema["properties"].keys()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"segments": [{}]}, schema)
