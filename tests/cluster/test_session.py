"""A cluster that a run starts on this machine, and what a run without one says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import CLIP, clean_environment

pytestmark = pytest.mark.ray
README = Path(__file__).parents[2] / "README.md"


def test_the_line_of_the_readme(tmp_path, tiny_artifact):
    """As a stranger runs it: it starts Ray, ends it, and says nothing of it."""
    found = re.search(r"^voxtral-onnx (transcribe .*--engine ray)", README.read_text(), re.M)
    assert found
    (tmp_path / "recordings").mkdir()
    shutil.copyfile(CLIP, tmp_path / "recordings" / "clip.wav")
    (tmp_path / "recordings" / "bad.wav").write_bytes(b"no sound")
    own = clean_environment(tmp_path, VOXTRAL_ONNX_MODEL=str(tiny_artifact))
    done = subprocess.run(
        [sys.executable, "-m", "voxtral_onnx", *shlex.split(found[1])],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=own,
        text=True,
        timeout=240,
    )
    assert done.returncode == 10, done.stderr
    assert done.stdout == f"{tmp_path}/archive/transcripts.jsonl\n"
    told = done.stderr.splitlines()
    assert len(told) == 3, done.stderr
    assert told[0].startswith("Ray: 1 worker, ")
    assert told[1].startswith(f"error: {tmp_path}/recordings/bad.wav: not a readable audio file")
    assert told[2] == "1 of 2 files transcribed; 1 failed, see their error"
    rows = (tmp_path / "archive" / "transcripts.jsonl").read_text().splitlines()
    bad, good = map(json.loads, rows)
    (text,) = (tmp_path / "archive").glob("*.txt")
    assert text.read_text() == good["text"] + "\n" and good["text"]
    assert bad["text"] is None and bad["error"]["code"] == 6


def test_no_cluster_at_an_address(run, tmp_path):
    options = ("--engine", "ray", "--address", "127.0.0.1:1", "-o", tmp_path / "out")
    run("transcribe", CLIP, "-m", "tiny", *options).assert_refused(7, "no cluster at 127.0.0.1:1")


def test_another_model_is_refused(run, tmp_path, tiny_artifact):
    """Before Ray is started, and whatever the order of settings."""
    (tmp_path / "out" / "work").mkdir(parents=True)
    (tmp_path / "out" / "work" / "settings.json").write_text('{"model": "another"}')
    options = ("--engine", "ray", "-o", tmp_path / "out")
    result = run("transcribe", CLIP, "-m", tiny_artifact, *options)
    result.assert_refused(2, "has outputs with another", "model", "choose another folder")
