"""Help, completion and misuse, whatever the command."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from support.commands import clean_environment

from voxtral_onnx import __version__
from voxtral_onnx.cli import app

COMMANDS = {
    command.callback.__name__ for command in app.app.registered_commands if command.callback
}
HELP_LINES = 68  # that help of one command may have on a terminal of 80 columns


@pytest.fixture
def complete(tmp_path):
    """What completion by a shell offers for a line, of which the last word is not whole."""

    def complete(shell: str, line: str) -> list[str]:
        words = line.split(" ")
        environment = clean_environment(
            tmp_path,
            _VOXTRAL_ONNX_COMPLETE=f"complete_{shell}",
            _TYPER_COMPLETE_ARGS=line,
            _TYPER_COMPLETE_FISH_ACTION="get-args",
            COMP_WORDS=line,
            COMP_CWORD=str(len(words) - 1),
        )
        command = [sys.executable, "-m", "voxtral_onnx"]
        done = subprocess.run(
            command, capture_output=True, check=True, text=True, env=environment, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    return complete


def test_version(run):
    result = run("--version")
    assert (result.code, result.out, result.err) == (0, f"voxtral-onnx {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["-h"], ["--help"]])
def test_help(arguments, run):
    result = run(*arguments)
    assert result.code == 0
    assert "Usage:" in result.out
    assert all(f" {name} " in result.out for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_fits_and_is_whole(name, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run(name, "--help")
    lines = [line for line in result.out.splitlines() if line.strip()]
    assert result.code == 0
    assert len(lines) <= HELP_LINES and max(map(len, lines)) <= 80
    assert "…" not in result.out  # where a word did not fit


def test_help_describes_arguments(run):
    assert "A folder that export wrote." in run("diff", "--help").out


def test_help_names_rungs_as_verify_does(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("verify", "--help").out
    assert all(
        f"{n} {name}" in shown for n, name in ((0, "files' hashes"), (1, "op"), (6, "words"))
    )


def test_no_command(process):
    """The exit code is the option parser's, which prints help on either stream."""
    result = process()
    assert result.code in (0, 2)
    assert "Usage: voxtral-onnx" in result.out + result.err
    assert "Traceback" not in result.err
    process("--").assert_misused("Missing command")


def test_completion_of_commands(complete):
    assert set(complete("bash", "voxtral-onnx ")) == COMMANDS
    assert complete("bash", "voxtral-onnx tr") == ["transcribe"]
    assert any('"transcribe"' in line for line in complete("zsh", "voxtral-onnx tr"))
    assert complete("fish", "voxtral-onnx tr")[0].startswith("transcribe\t")


def test_completion_of_options(complete):
    assert set(complete("bash", "voxtral-onnx transcribe --output-")) == {
        "--output-format",
        "--output-dir",
    }
    assert complete("bash", "voxtral-onnx transcribe --verbose False --vad-") == ["--vad-model"]
    assert complete("bash", "voxtral-onnx export --dry") == ["--dry-run"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_instructions_for_completion(shell, tmp_path):
    environment = clean_environment(tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    command = [sys.executable, "-m", "voxtral_onnx", "--show-completion", shell]
    done = subprocess.run(
        command, capture_output=True, check=True, text=True, env=environment, timeout=60
    )
    assert (
        f"_VOXTRAL_ONNX_COMPLETE=complete_{shell}" in done.stdout.replace('"', "")
        and done.stderr == ""
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_completion_in_bash(tmp_path):
    """The script that bash is given, run by bash as a TAB does."""
    program = tmp_path / "bin" / "voxtral-onnx"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m voxtral_onnx "$@"\n')
    program.chmod(0o755)
    script = """
        PATH=$1:$PATH
        eval "$(voxtral-onnx --show-completion bash)"
        COMP_WORDS=(voxtral-onnx qu) COMP_CWORD=1
        _voxtral_onnx_completion voxtral-onnx
        echo "${COMPREPLY[@]}"
    """
    environment = clean_environment(tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    command = ["bash", "-c", script, "bash", str(program.parent)]
    done = subprocess.run(
        command, capture_output=True, check=True, text=True, env=environment, timeout=60
    )
    assert (done.stdout, done.stderr) == ("quantize\n", "")


def test_command_as_a_process(process):
    result = process("--version")
    assert (result.code, result.out, result.err) == (0, f"voxtral-onnx {__version__}\n", "")


def test_error_as_a_process(process):
    process("inspect", "nowhere").assert_refused(4, "nowhere: no such folder")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["frobnicate"], ["No such command 'frobnicate'"]),
        (["export", "a", "b"], ["Got unexpected extra argument"]),
        (["diff", "a"], ["Missing argument 'B'"]),
        (["transcribe", "--loud", "a.wav"], ["No such option: --loud"]),
        (["transcribe", "--delay", "soon", "a.wav"], ["Invalid value for '--delay'"]),
        (["transcribe", "--threads", "0", "a.wav"], ["Invalid value for '--threads'"]),
        (["transcribe", "--threads", "-1", "a.wav"], ["Invalid value for '--threads'"]),
        (["transcribe", "--batch-size", "1025", "a.wav"], ["Invalid value for '--batch-size'"]),
        (["serve", "--port", "65536"], ["Invalid value for '--port'"]),
    ],
)
def test_misuse(arguments, parts, run):
    run(*arguments).assert_misused(*parts)


def test_rungs_are_digits(run):
    run("verify", "nowhere", "--rungs", "9" * 5000).assert_refused(2, "rungs: expected numbers")


def test_inspect_for_a_reader_that_leaves(process, tiny_artifact):
    command = f"{sys.executable} -m voxtral_onnx inspect --json {tiny_artifact} | head -c 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60)
    assert (result.stdout, result.stderr) == (b"{", b"")


def test_nothing_heavy_is_loaded_for_help():
    heavy = {"torch", "numpy", "onnxruntime", "soundfile"}
    code = f"import sys; from voxtral_onnx.cli import app; print(*{heavy} & sys.modules.keys())"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert result.stdout.strip() == ""
