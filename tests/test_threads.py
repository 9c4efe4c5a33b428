"""As many threads as a machine can use, wherever they are asked for."""

from __future__ import annotations

import pytest
from support.commands import CLIP

from voxtral_onnx import Transcriber, export, threads
from voxtral_onnx.errors import UsageError
from voxtral_onnx.runtime.bench import bench


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: 3)


def test_the_default_is_one_a_core():
    assert threads.check_threads(None) == 3
    assert [threads.check_threads(number) for number in (1, 12)] == [1, 12]


@pytest.mark.parametrize("number", [-1, 0, 13, 10**9])
def test_numbers_that_are_refused(number, tiny_artifact, tmp_path, run):
    said = rf"threads: expected 1 to 12, 4 for each of this machine's 3 cores, got {number}$"
    with pytest.raises(UsageError, match=said):
        Transcriber(tiny_artifact, threads=number)
    with pytest.raises(UsageError, match=said):
        export("tiny", tmp_path / "out", threads=number)
    with pytest.raises(UsageError, match=said):
        next(bench(tiny_artifact, CLIP, threads=number))
    if number > 12:
        run("transcribe", "-m", tiny_artifact, "--threads", number, CLIP).assert_refused(
            2, "threads: expected 1 to 12"
        )
