"""Standard streams that are closed, full, left by their readers, or of few characters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.commands import CLIP, SAMPLES, TEXT, TEXTS, clean_environment

from voxtral_onnx.cli import app, exit_codes, streams, terminal
from voxtral_onnx.errors import UsageError

OTHER = SAMPLES / "date-hibari.wav"
FULL = Path("/dev/full")
NEEDS_FULL = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
FAULTS = ["closed", "left", pytest.param("full", marks=NEEDS_FULL)]
CODES = {"closed": 9, "full": 9, "left": exit_codes.NO_READER}
SAID = {
    "closed": "error: standard output: cannot be written (it is closed)\n",
    "full": "error: standard output: cannot be written (No space left on device)\n",
    "left": "",
}


def faulty(fault: str) -> io.TextIOWrapper | None:
    """A stream as a process gets it, behind which something is wrong."""
    if fault == "closed":
        return None
    if fault == "full":
        file = os.open(FULL, os.O_WRONLY)
    else:
        reader, file = os.pipe()
        os.close(reader)
    return os.fdopen(file, "w", encoding="utf-8")


@pytest.fixture
def run_with(monkeypatch, tmp_path):
    """The command line in this process, with streams of ours; exit code, stdout, stderr."""

    def run_with(*arguments, **given) -> tuple[int, bytes, str]:
        files = {name: tmp_path / name for name in ("stdout", "stderr")}
        opened = []
        for name, file in files.items():
            stream = given[name] if name in given else file.open("w", encoding="utf-8")
            monkeypatch.setattr(sys, name, stream)
            opened += [stream] if stream else []
        for module, name in ((sys, "unraisablehook"), (threading, "excepthook")):
            monkeypatch.setattr(module, name, getattr(module, name))  # pytest's, given back
        monkeypatch.setattr(sys, "argv", ["voxtral-onnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        sys.stdout.close()
        sys.stderr.close()
        for stream in opened:
            stream.close()
        shown = [file.read_bytes() if file.exists() else b"" for file in files.values()]
        return int(stop.value.code or 0), shown[0], shown[1].decode()

    return run_with


def command(name: str, artifact: Path) -> list[object]:
    return {
        "version": ["--version"],
        "help": ["--help"],
        "help of a command": ["serve", "--help"],
        "completion": ["--show-completion", "bash"],
        "inspect": ["inspect", artifact],
        "inspect --json": ["inspect", "--json", artifact],
        "hosts": ["inspect", "--hosts", artifact],
        "diff": ["diff", artifact, artifact],
        "publish": ["publish", artifact, "org/name", "--dry-run"],
        "words": ["transcribe", "-m", artifact, CLIP],
        "json": ["transcribe", "-m", artifact, "--json", CLIP],
        "together": ["transcribe", "-m", artifact, "--batch-size", 2, CLIP, CLIP],
        "verify": ["verify", artifact, "--rungs", "0"],
    }[name]


NAMES = (
    *("version", "help", "help of a command", "completion", "inspect", "inspect --json", "hosts"),
    *("diff", "publish", "words", "json", "together", "verify"),
)
WRITERS = ("help", "completion", "inspect", "inspect --json", "words", "json", "together")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *(pytest.param(name, "full", marks=NEEDS_FULL) for name in NAMES),
        *((name, fault) for name in WRITERS for fault in ("closed", "left")),
    ],
)
def test_stdout_that_cannot_be_written(name, fault, run_with, artifact, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, _, error = run_with(*command(name, artifact), stdout=faulty(fault))
    assert code == CODES[fault]
    if fault == "closed" and name in ("words", "json", "together"):  # before the work
        assert error == "error: standard output is closed: add --output-dir FOLDER for the text\n"
    else:
        assert error.endswith(SAID[fault]) and error.count("error") == bool(SAID[fault])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["words", "verify"])
def test_stderr_that_cannot_be_written_costs_nothing(name, fault, run_with, artifact):
    if name == "verify":
        run_with(*command(name, artifact))  # from here on it takes the same time
    code, shown, _ = run_with(*command(name, artifact))
    again, same, _ = run_with(*command(name, artifact), stderr=faulty(fault))
    assert code == again == 0
    assert len(shown.splitlines()) == len(same.splitlines()) > 0
    if name == "words":
        assert same.decode() == TEXT + "\n"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["txt", "srt", "all"])
def test_files_are_written_whatever_becomes_of_stdout(kind, fault, run_with, artifact, tmp_path):
    """Those after the failure too; what was asked for is there where stdout was not."""
    folder = tmp_path / "out"
    code, _, error = run_with(
        "transcribe", "-m", artifact, "-f", kind, "-o", folder, CLIP, OTHER, stdout=faulty(fault)
    )
    kinds = ["txt", "json", "srt", "vtt", "tsv", "lrc"] if kind == "all" else [kind]
    assert {file.name for file in folder.iterdir()} == {
        f"{clip.stem}.{kind}" for clip in (CLIP, OTHER) for kind in kinds
    }
    for clip in (CLIP, OTHER):
        assert TEXTS[clip.name].split()[-1] in (folder / f"{clip.stem}.{kinds[0]}").read_text()
    if fault == "closed":
        assert (code, error.count("error")) == (0, 0)
    else:
        assert code == CODES[fault] and error.endswith(SAID[fault])


def test_a_closed_stdout_to_which_nothing_is_written_is_not_mentioned(run_with):
    code, _, error = run_with("inspect", "nowhere", stdout=None)
    assert code == 4 and error.startswith("error: nowhere: no such") and error.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_characters_that_stdout_lacks_are_escapes_and_said_once(
    encoding, run_with, artifact, tmp_path
):
    folder = artifact.rename(tmp_path / "é語\U0001f600")
    file = tmp_path / "shown"
    for arguments in (["inspect", folder], ["inspect", "--json", folder]):
        code, _, error = run_with(*arguments, stdout=file.open("w", encoding=encoding))
        shown = file.read_bytes()
        assert code == 0 and error.count("note: standard output is") == 1
        assert f"standard output is {encoding}: " in error and "PYTHONUTF8=1" in error
        assert b"\\u8a9e\\ud83d\\ude00" in shown
        assert ("é".encode(encoding, "ignore") or b"\\u00e9") in shown
    assert json.loads(shown.decode(encoding))["folder"] == str(folder)


def test_nothing_is_said_of_characters_that_stdout_has(run_with, artifact, tmp_path):
    folder = artifact.rename(tmp_path / "é")
    code, shown, error = run_with("inspect", folder)
    assert (code, error) == (0, "") and "é" in shown.decode()


def test_help_in_ascii(run_with, tmp_path):
    file = tmp_path / "shown"
    code, _, error = run_with("--help", stdout=file.open("w", encoding="ascii"))
    assert code == 0 and "Usage: voxtral-onnx" in file.read_text("ascii")
    assert "Traceback" not in error


def test_a_pipe_that_does_not_wait(tmp_path):
    """Another program that has the same pipe may have made it so; its reader is slow."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    raw = io.FileIO(writer, "w")
    outlet = streams.Outlet(raw, is_result=True)
    text = bytes(1 << 20)  # more than a pipe holds
    code = "import sys, time; time.sleep(0.1); print(len(sys.stdin.buffer.read()))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=reader, stdout=subprocess.PIPE
    ) as process:
        os.close(reader)
        with io.BufferedWriter(outlet) as file:
            file.write(text)
        raw.close()
        assert int(process.communicate(timeout=60)[0]) == len(text)


CLOSED = "exec {0}; exec {1} -m voxtral_onnx transcribe -m {2} {3}"


@pytest.mark.parametrize(
    ("closed", "code"), [("<&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), (">&-", 0)]
)
def test_descriptors_that_are_closed(closed, code, tiny_artifact, tmp_path):
    """No file that is opened in their place gets what libraries write."""
    script = CLOSED.format(closed, sys.executable, tiny_artifact, f"-o {tmp_path}/out {CLIP}")
    done = subprocess.run(
        ["sh", "-c", script],
        env=clean_environment(tmp_path),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert (tmp_path / "out" / f"{CLIP.stem}.txt").read_text() == TEXT + "\n"


@pytest.mark.parametrize("arguments", [["transcribe", "-"], ["listen", "--stdin"]])
def test_standard_input_that_is_closed(arguments, run, tiny_artifact, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    run(*arguments, "-m", tiny_artifact).assert_refused(6, "standard input is closed")


def test_nobody_answers_on_standard_input_that_is_closed(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    run("--version")
    with pytest.raises(UsageError, match="nobody to ask"):
        terminal.confirm("Upload it?", "nobody to ask")
