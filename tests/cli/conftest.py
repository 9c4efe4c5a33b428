"""What tests of the command line share: a clip of a minute, and commands that are started."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from support.commands import LONG_CLIP, SAMPLES, clean_environment


@pytest.fixture
def transcribe(run, tiny_artifact):
    return lambda *arguments: run("transcribe", "-m", tiny_artifact, *arguments)


@pytest.fixture(scope="session")
def minute(tmp_path_factory):
    """A clip of a minute, and its words as the samples have them."""
    names = [LONG_CLIP.name, "date-hibari.wav", "number-flite.wav", LONG_CLIP.name]
    path = tmp_path_factory.mktemp("minute") / "minute.wav"
    soundfile.write(
        path, np.concatenate([soundfile.read(SAMPLES / name)[0] for name in names]), 16000
    )
    assert soundfile.info(path).duration > 60
    return path


@pytest.fixture
def start(tiny_artifact, tmp_path):
    """Start a command as a process that heeds signals, whatever started this one."""
    started = []

    def start(name, *arguments, **options) -> subprocess.Popen:
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "hasattr(signal, 'SIGHUP') and signal.signal(signal.SIGHUP, signal.SIG_DFL); "
            "from voxtral_onnx.cli import main; main()"
        )
        command = [sys.executable, "-c", code, name, "-m", tiny_artifact, *arguments]
        started.append(
            subprocess.Popen(
                [str(part) for part in command], env=clean_environment(tmp_path), **options
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
