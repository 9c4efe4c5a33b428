"""What `transcribe --engine ray` refuses before Ray is started, and its progress."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from support.commands import CLIP

from voxtral_onnx.cli.archive import ArchiveScreen


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "ray"), "add --output-dir FOLDER"),
        (("--engine", "ray", "-o", "out", "-f", "docx"), "got 'docx'"),
        (("--engine", "ray", "-o", "out", "-f", "srt,docx"), "got 'docx'"),
        (("--address", "auto"), "add --engine ray"),
        (("-o", "s3://bucket/out"), "transcribe --engine ray writes to an address"),
    ],
)
def test_what_does_not_fit(run, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    run("transcribe", CLIP, "-m", "tiny", *options).assert_refused(2, said)
    assert not list(tmp_path.iterdir())


def test_an_engine_that_is_none(run):
    run("transcribe", CLIP, "--engine", "dask").assert_misused("expected local or ray, got 'dask'")


def test_without_ray(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("voxtral_onnx.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    result = run("transcribe", CLIP, "-m", "tiny", "--engine", "ray", "-o", tmp_path / "out")
    result.assert_refused(7, "pip install 'voxtral-onnx[ray,cpu]'")
    assert not (tmp_path / "out").exists()


def test_progress(monkeypatch, capsys):
    """By bytes, as the length of a recording is not known before it is opened."""
    now = [0.0]
    monkeypatch.setattr("voxtral_onnx.cli.archive.monotonic", lambda: now[0])
    screen = ArchiveScreen(4, 1000)
    failure = SimpleNamespace(error=lambda: ValueError("b.wav: no sound"))
    now[0] = 100.0
    done: Any = [  # as workers tell it, whose class needs Ray
        SimpleNamespace(size=200, seconds=3600.0, failure=None),
        SimpleNamespace(size=50, seconds=0.0, failure=failure),
    ]
    screen.take(done)
    line = screen.line(100)
    assert line.endswith(" 25%, 5:00 left, 2 of 4 files, 1 failed, 1.0 h of audio, 36.0x real time")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "error: b.wav: no sound"
    assert "25%, 5:00 left" in told[1]  # there is no terminal to draw on
