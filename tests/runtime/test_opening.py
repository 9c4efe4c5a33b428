"""Recordings are opened as they were when they were taken, and files in threads ahead."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from support.commands import CLIP, LONG_CLIP

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.opening import is_file, open_sources


def test_what_is_changed_after_it_was_taken_is_read_as_it_was():
    """A caller may use its buffer again, though files beside it are opened ahead."""
    tone = np.sin(np.arange(1600) / 5).astype(np.float32)
    buffer = np.zeros(1600, np.float32)

    def recordings():
        yield CLIP
        for number in range(1, 20):
            buffer[:] = tone * number / 20
            yield buffer

    file, *rest = open_sources(recordings(), 16000)
    assert file.name == str(CLIP)
    for number, source in enumerate(rest, 1):
        samples = np.concatenate(list(source.blocks()))
        np.testing.assert_allclose(samples, tone * number / 20, atol=0.01)
    assert len(rest) == 19


def test_a_file_that_cannot_be_opened_is_raised_in_its_turn(tmp_path):
    sources = open_sources(iter([CLIP, tmp_path / "none.wav", LONG_CLIP]), 16000)
    assert next(sources).name == str(CLIP)
    with pytest.raises(AudioError, match=r"none\.wav"):
        next(sources)


def test_sources_that_are_open_are_not_taken_ahead():
    taken = []

    def opened():
        for number in range(5):
            taken.append(number)
            yield open_audio(CLIP, 16000)

    sources = open_sources(opened(), 16000)
    next(sources)
    assert taken == [0]
    assert len(list(sources)) == 4


def test_a_pipe_is_not_for_a_thread(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = [is_file(each) for each in ("-", tmp_path / "pipe", np.zeros(3), CLIP, "none.wav")]
    assert found == [False, False, False, True, True]


def test_an_opening_that_nobody_waits_for_ends():
    closed = threading.Event()
    assert open_audio(CLIP, 16000, closed=closed).duration > 2
    closed.set()
    with pytest.raises(AudioError, match="was not read to its end"):
        open_audio(CLIP, 16000, closed=closed)
