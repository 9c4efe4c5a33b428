"""How far files have come, in a line that is cut from its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from voxtral_onnx.cli.progress import FilesProgress
from voxtral_onnx.runtime.audio.files import AudioSource, open_audio


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def source(name: str, seconds: float) -> AudioSource:
    whole = open_audio(np.zeros(0, np.float32), 16000)
    return replace(whole, name=name, duration=seconds)


def files(tmp_path, **sizes: int) -> list[str]:
    for name, size in sizes.items():
        (tmp_path / name.replace("_", ".")).write_bytes(bytes(size))
    return [str(tmp_path / name.replace("_", ".")) for name in sizes]


def test_one_file(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=10), clock)
    assert progress.line(80) == f"{'─' * 20}   0%"
    progress.know(1, 60.0)
    progress.begin(source("folder/a.wav", 60.0))
    progress.position, clock.now = 15.0, 105.0
    assert progress.line(80) == f"{'━' * 5}{'─' * 15}  25%, 0:15 left, 0:15 of 1:00 of a.wav"
    assert progress.line(60) == f"{'━' * 2}{'─' * 8}  25%, 0:15 left, 0:15 of 1:00 of a.wav"
    assert progress.line(20) == "25%, 0:15 left, 0:15 of 1:00 of a.wav"
    assert progress.line(80, "ascii").startswith("#####---------------  25%")
    progress.finish(60.0)
    assert progress.line(20) == "100%, 0:00 left"


def test_what_was_done_before_is_neither_work_nor_speed(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=10), clock)
    progress.know(1, 20.0)
    progress.begin(source("a.wav", 60.0), 40.0)
    assert progress.line(20) == "0%, 0:40 of 1:00 of a.wav"
    progress.position, clock.now = 45.0, 101.0
    assert progress.line(20) == "25%, 0:03 left, 0:45 of 1:00 of a.wav"
    progress.finish(20.0)
    assert progress.total == "0:20 of audio at 20.0 times its speed"


def test_files_that_were_not_opened_are_as_long_as_their_kind(tmp_path, clock):
    paths = files(tmp_path, a_wav=1000, b_wav=3000, c_mp3=100, d_mp3=200)
    progress = FilesProgress([*paths, "-"], clock)
    progress.know(1, 10.0)
    assert progress.total_seconds == pytest.approx(10 + 30 + 1 + 2)
    progress.know(3, 20.0)
    assert progress.total_seconds == pytest.approx(10 + 30 + 20 + 40)
    progress.know(2, 50.0)
    progress.know(5, 7.0)
    assert progress.total_seconds == pytest.approx(10 + 50 + 20 + 40 + 7)
    progress.finish(10.0)
    clock.now += 2
    assert progress.line(80).endswith("   8%, 0:23 left, 1 of 5 files")


def test_files_that_failed_are_not_waited_for(tmp_path, clock):
    progress = FilesProgress(files(tmp_path, a_wav=1000, b_wav=1000), clock)
    progress.know(1, 10.0)
    progress.know(1, 0.0)
    progress.know(2, 10.0)
    progress.finish(10.0)
    clock.now += 1
    assert progress.line(20).startswith("100%, 0:00 left")


@pytest.mark.parametrize("audio", [[], ["nowhere.wav"], ["\0"]])
def test_nothing_is_known_of_what_is_not_there(audio, clock):
    assert FilesProgress(audio, clock).line(20).startswith("0%")
