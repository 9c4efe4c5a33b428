"""The examples of docs/extending.md, run as they stand."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from commands import CLIP, TEXT, clean_environment

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest

FOLDER = Path(__file__).parent.parent / "examples" / "extend"
EXAMPLES = sorted(FOLDER.glob("*.py"))


def run(name: str, *arguments, state: Path) -> str:
    command = [sys.executable, FOLDER / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(state), timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_four_and_the_page_names_them():
    page = (FOLDER.parent.parent / "docs" / "extending.md").read_text()
    assert len(EXAMPLES) == 4
    assert all(f"examples/extend/{example.name}" in page for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_they_are_short(example):
    assert len(example.read_text().splitlines()) <= 40


def test_a_quantiser(tmp_path):
    artifact = run("quantizer.py", "tiny", tmp_path / "out", state=tmp_path).strip()
    assert Manifest.read(Path(artifact)).precisions["q4"].recipe["rules"][0]["method"] == "clipped"
    with Transcriber(artifact) as transcriber:
        assert transcriber.transcribe(CLIP).text == TEXT


def test_another_encoder(tiny_artifact, tmp_path):
    assert run("encoder.py", tiny_artifact, CLIP, state=tmp_path).strip() == TEXT


def test_another_tokenizer(tiny_artifact, tmp_path):
    lines = run("tokenizer.py", tiny_artifact, CLIP, state=tmp_path).splitlines()
    assert " ".join(line[7:].strip() for line in lines) == TEXT.upper()


def test_a_server(tiny_artifact, tmp_path):
    command = [sys.executable, FOLDER / "server.py", tiny_artifact, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment(tmp_path)) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            with urllib.request.urlopen(urllib.request.Request(url, CLIP.read_bytes())) as answer:
                segments = [json.loads(line) for line in answer]
        finally:
            server.terminate()
    assert "".join(segment["text"] for segment in segments).strip() == TEXT
    assert (np.diff([segment["end"] for segment in segments]) >= 0).all()
