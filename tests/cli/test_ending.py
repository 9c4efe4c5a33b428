"""Runs end by signals in order, and by errors of any kind in one line with the right code."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys

import pytest
from support.commands import CLIP, clean_environment, read_word

from voxtral_onnx.cli import ending, exit_codes
from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.manifest import Manifest


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            ValueError("3 is\nno 4"),
            1,
            r"internal: ValueError: 3 is\\nno 4 at [/\w]+\.py:\d+; run it again with "
            r"VOXTRAL_ONNX_DEBUG=1 for the traceback, and report it",
        ),
        (RecursionError("too deep"), 1, r"internal: RecursionError: too deep at .*"),
        (EOFError("short"), 1, "internal: EOFError: short at .*"),
        (AssertionError(), 1, r"internal: AssertionError:  at .*"),
        (MemoryError(), 7, "not enough memory; .*"),
        (MemoryError("2 GiB of floats"), 7, r"not enough memory \(2 GiB of floats\); .*"),
        (OSError(errno.ENOSPC, "No space left on device"), 9, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 9, "a/b: Permission denied"),
        (OSError("odd"), 9, "odd"),
        (ArtifactError("no such folder"), 4, "no such folder"),
        (caused(ImportError("initialization failed"), KeyboardInterrupt()), 130, None),
        (KeyboardInterrupt(), 130, None),
        (caused(ArtifactError("ended"), SystemExit(143)), 143, None),
    ],
)
def test_an_error_is_a_line_and_a_code(error, code, said, run, monkeypatch):
    def fail(folder):
        raise error

    monkeypatch.setattr(Manifest, "read", fail)
    result = run("inspect", ".")
    assert (result.code, result.out) == (code, "")
    if said is None:
        assert result.err == ""
    else:
        # The option parser ends a line where a file ends, as if it had asked a question
        assert re.fullmatch(f"error: {said}\n", result.err.removeprefix("\n")), result.err


def test_the_traceback_is_there_when_it_is_asked_for(run, monkeypatch):
    def fail(folder):
        raise ValueError("no\x1b[2J")

    monkeypatch.setattr(Manifest, "read", fail)
    monkeypatch.setenv("VOXTRAL_ONNX_DEBUG", "1")
    result = run("inspect", ".")
    assert result.code == 1 and result.err.startswith("Traceback (most recent call last):\n")
    assert result.err.splitlines()[-1].startswith("error: internal: ValueError: no\\u001b[2J at ")
    assert "\x1b" not in result.err


def test_threads_and_objects_that_fail_are_a_line_each(tmp_path):
    code = """
import threading
from voxtral_onnx.cli.terminal import own_messages
class Odd:
    def __del__(self): raise ValueError("of an object")
own_messages()
thread = threading.Thread(target=lambda: int("x"))
thread.start()
thread.join()
Odd()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "note: internal: ValueError: invalid literal for int() with base 10: 'x'",
        "note: internal: ValueError: of an object",
    ]


SIGNALS = [
    (signal.SIGTERM, exit_codes.TERMINATED),
    pytest.param(
        getattr(signal, "SIGHUP", None),
        exit_codes.HUNG_UP,
        marks=pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP"),
    ),
]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signals_end_every_command_in_order(number, code, run, monkeypatch):
    """What is cleaned up on the way out is, and the handlers are given back."""
    started_with, ways = signal.signal(number, signal.SIG_DFL), []

    def read(folder):
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("not stopped")
        finally:
            ways.append("cleaned up")

    monkeypatch.setattr(Manifest, "read", read)
    try:
        result = run("inspect", ".")
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, started_with)
    assert (result.code, result.out, result.err, ways) == (code, "", "", ["cleaned up"])


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_hang_up_that_is_ignored_stays_so(run, monkeypatch):
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending.orderly_stops():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_hang_up_shows_what_was_decoded(arguments, start, minute):
    process = start(
        "transcribe", *arguments, minute, "--threads", 1, CLIP,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if arguments:
        while b"delay" not in process.stderr.readline():
            pass
    else:
        read_word(process.stdout.fileno())
    process.send_signal(signal.SIGHUP)
    shown, error = process.communicate(timeout=60)
    assert process.returncode == exit_codes.HUNG_UP, error
    assert b"error" not in error and (arguments or shown.endswith(b"\n"))


def test_ctrl_c_while_commands_are_loaded(tmp_path):
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, *rest):
        if name == "rich.console":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
from voxtral_onnx.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env=clean_environment(tmp_path),
    )
    assert (done.returncode, done.stdout, done.stderr) == (exit_codes.INTERRUPTED, b"", b"")


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows cannot interrupt it")
def test_ctrl_c_while_the_interpreter_waits_for_threads(tmp_path):
    code = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(60)
threading.Thread(target=interrupt).start()
sys.argv[1:] = ["--version"]
from voxtral_onnx.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env=clean_environment(tmp_path),
    )
    assert (done.returncode, done.stderr) == (exit_codes.INTERRUPTED, b"")
    assert done.stdout.startswith(b"voxtral-onnx ")
