"""What can be read only once is kept, within bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
from support.commands import CLIP, TEXT, clean_environment
from support.sounds import RATE, SAMPLES, encoded

from voxtral_onnx.errors import AudioError, StorageError
from voxtral_onnx.runtime.audio.container import spool
from voxtral_onnx.runtime.audio.files import open_audio

RAW = (SAMPLES * 32768).astype("<i2").tobytes()


def fed(path, content: bytes) -> None:
    """Write into a pipe as a program would, which does not mind that nobody reads on."""
    with suppress(BrokenPipeError), path.open("wb") as file:
        file.write(content)


@pytest.fixture
def fifo(tmp_path):
    """Return a pipe that has a name, into which something is written."""

    def fifo(content: bytes):
        os.mkfifo(tmp_path / "pipe")
        threading.Thread(target=fed, args=(tmp_path / "pipe", content), daemon=True).start()
        return tmp_path / "pipe"

    return fifo


@pytest.mark.parametrize("kind", ["wav", "mp3", "opus"])
def test_a_pipe_with_a_name(kind, fifo):
    source = open_audio(fifo(encoded(kind)), RATE)
    first, again = (np.concatenate(list(source.blocks())) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.corrcoef(first[: len(SAMPLES)], SAMPLES)[0, 1] > 0.95


def test_devices(tmp_path):
    with pytest.raises(AudioError, match=r"/dev/null: not a readable audio file: .*nothing: 0 "):
        open_audio("/dev/null", RATE)
    for endless in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(AudioError, match=f"{endless}: not a readable audio file"):
            open_audio(endless, RATE)


def test_what_never_ends_is_bounded(fifo, monkeypatch):
    monkeypatch.setattr(spool, "SPOOL", 3 << 20)
    with pytest.raises(AudioError, match="pipe: longer than"):
        open_audio(fifo(encoded("wav") + bytes(4 << 20)), RATE)


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 6, "nothing: 0 bytes"),
        (b"<!DOCTYPE html><html>404" * 900, 6, "this is an HTML page"),
        (b'{"error": "not found"}', 6, "this is JSON"),
        (b"ffmpeg: No such file or directory\n", 6, "this is text"),
        (np.random.default_rng(0).bytes(9000), 6, "raw samples are read with --raw s16le"),
        (RAW, 6, "raw samples are read with --raw s16le"),
        (CLIP.read_bytes()[:30], 6, "standard input: not a readable audio file"),
    ],
    ids=["nothing", "html", "json", "text", "random", "raw", "header"],
)
def test_standard_input_that_is_no_sound(content, code, said, process, tiny_artifact):
    result = process("transcribe", "-m", tiny_artifact, "-", input=content)
    result.assert_refused(code, "standard input: ", said)


@pytest.mark.parametrize("content", [CLIP.read_bytes(), encoded("flac")], ids=["wav", "flac"])
def test_standard_input(content, process, tiny_artifact):
    result = process("transcribe", "-m", tiny_artifact, "-", input=content)
    assert (result.code, result.out) == (0, TEXT + "\n")


@pytest.mark.parametrize(("rest", "code"), [(b"", 0), (b"x", 6)])
def test_raw_standard_input(rest, code, process, tiny_artifact):
    result = process("transcribe", "-m", tiny_artifact, "--raw", "s16le", "-", input=RAW + rest)
    assert (result.code, result.out) == (code, TEXT + "\n")
    assert "standard input: read as raw s16le, 16000 Hz, 1 channel\n" in result.err
    assert ("it ends inside a sample: 1 of 2 bytes" in result.err) == bool(rest)


def test_a_folder_for_temporary_files_is_missing(fifo, monkeypatch):
    def none(**options):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", none)
    with pytest.raises(StorageError, match="set TMPDIR to one"):
        open_audio(fifo(encoded("wav")), RATE)


def test_a_full_folder_for_temporary_files(tiny_artifact, tmp_path):
    """The shell's limit of a file's size stands for a disk that is full."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)); "
        "from voxtral_onnx.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "transcribe", "-m", str(tiny_artifact), "-"],
        input=CLIP.read_bytes(),
        capture_output=True,
        env=clean_environment(tmp_path, TMPDIR=str(tmp_path)),
        check=False,
    )
    assert result.returncode == 9, result.stderr
    assert f"error: {tmp_path}: standard input does not fit there" in result.stderr.decode()
