"""Times and sizes as people read them; names of strangers on a terminal."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import typer
from rich.table import Table
from support.commands import CLIP
from test_layout import FILES, ROOT

from voxtral_onnx import hub
from voxtral_onnx.cli import exit_codes, progress, screen, terminal
from voxtral_onnx.errors import ArtifactError, UsageError
from voxtral_onnx.exporter.binding import bind


class Answer(io.StringIO):
    """A terminal at which a line is written, or Ctrl-C or Ctrl-D pressed."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> str:
        line = super().readline(-1 if size is None else size)
        if line == "^C":
            raise KeyboardInterrupt
        return line


@pytest.mark.parametrize("answer", ["n\n", "\n", "^C", ""], ids=["n", "enter", "ctrl-c", "ctrl-d"])
def test_no_to_a_question(answer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Answer(answer))
    with pytest.raises(typer.Exit) as stop:
        terminal.confirm("Upload it?", "nobody to ask")
    assert stop.value.exit_code == exit_codes.INTERRUPTED
    shown = capsys.readouterr()
    assert shown.out.strip() == "" and shown.err.startswith("Upload it?")
    assert "Abort" not in shown.err


def test_yes_to_a_question(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Answer("y\n"))
    terminal.confirm("Upload it?", "nobody to ask")


def test_a_question_that_nobody_can_answer(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="nobody to ask"):
        terminal.confirm("Upload it?", "nobody to ask")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (754, "12:34"), (36_000, "10:00:00")]
)
def test_times_for_people(seconds, text):
    assert terminal.format_time(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (8_200_000, "8.2 MB"),
        (136_000_000, "136 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_sizes_for_people(size, text):
    assert terminal.format_size(size) == text


NAME = "a\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b2J\u202eb\nerror: c[b]"
SHOWN = "a\\u001b]52;c;ZXZpbA==\\u0007\\u001b[2J\\u009b2J\\u202eb\\nerror: c[b]"


def is_safe(text: str) -> bool:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf")} <= {"\n"}


def assert_shown(text: str, count: int = 1) -> None:
    """Nothing that a terminal obeys, and the name as text, this often."""
    assert is_safe(text)
    assert text.count(SHOWN) == count


def test_every_way_to_a_terminal_shows_names(capsys):
    terminal.info(f"{NAME}: a note")
    terminal.print_error(ArtifactError(f"{NAME}: no such folder; run:\n  voxtral-onnx export"))
    terminal.stderr.print(terminal.styled((NAME, "bold"), f": {NAME}"))
    terminal.stdout.print(NAME)
    terminal.write_line(f"certificate: {NAME}")
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_row(NAME)
    terminal.stdout.print(table)
    shown = capsys.readouterr()
    assert_shown(shown.err, 4)
    assert "no such folder; run:\n  voxtral-onnx export\n" in shown.err
    assert [line.strip() for line in shown.out.splitlines()] == [
        SHOWN,
        f"certificate: {SHOWN}",
        SHOWN,
    ]


def test_a_name_begins_no_line(capsys):
    terminal.info("a\nb\r\nc\u2028d\x85e")
    assert capsys.readouterr().err == "a\\nb\\u000d\\nc\\u2028d\\u0085e\n"


def test_texts_keep_their_lines_and_json_its_values(capsys):
    terminal.write("a\n\tb\x1b[2J\n")
    terminal.write_json({NAME: [NAME]})
    text, line = capsys.readouterr().out.split("[2J\n", 1)
    assert text == "a\n\tb\\u001b"
    assert_shown(line, 2)
    assert json.loads(line) == {NAME: [NAME]}


@pytest.mark.parametrize("name", [NAME.encode(), b"caf\xe9"], ids=["controls", "latin-1"])
def test_a_path_is_a_result_by_its_bytes(name, capfdbinary):
    terminal.write_path(Path(os.fsdecode(name)))
    assert capfdbinary.readouterr().out == name + os.linesep.encode()


def test_a_path_is_shown_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Answer())
    terminal.write_path(Path(os.fsdecode(NAME.encode() + b"\xe9")))
    assert sys.stdout.getvalue() == SHOWN + "\\xe9\n"  # type: ignore[attr-defined]


@pytest.fixture
def bars(monkeypatch):
    """A terminal of 200 columns on which bars are drawn; what was drawn, less rich's own."""
    drawn = io.StringIO()
    console = terminal.Console(stderr=True)
    console.file, console._force_terminal, console.width = drawn, True, 200
    monkeypatch.setattr(progress, "stderr", console)

    def text() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", drawn.getvalue())

    return text


def test_bars_show_names_of_files_and_tensors(bars):
    with progress.DownloadProgress() as download:
        download.update(hub.Progress(NAME, 1, 2))
    with progress.ExportProgress() as export:
        export.update(bind.Progress((NAME,), NAME, 1, 2))
    with progress.StatusSpinner() as spinner:
        spinner.show(f"{NAME} is checked")
        progress.stderr.print(spinner.status.renderable)
    shown = bars()
    assert is_safe(shown)
    assert shown.count(SHOWN) >= 4


def test_the_line_below_the_words_shows_names(monkeypatch, capsys):
    monkeypatch.setattr(screen, "terminal_columns", lambda: 200)
    screen.LiveScreen(lambda columns: "")._show_status(f"▁ {NAME}")
    assert capsys.readouterr().err == f"\r\x1b[2m▁ {SHOWN}\x1b[m\x1b[J\r"


def test_misuse_shows_arguments(run):
    for arguments in (["transcribe", f"--{NAME}"], [NAME], ["export", "a", NAME]):
        result = run(*arguments)
        result.assert_misused()
        assert is_safe(result.err)
        assert len(re.findall("^error: ", result.err, re.MULTILINE)) == 1


def test_errors_of_commands_show_names(run, tmp_path):
    (tmp_path / NAME).mkdir()
    for arguments in (
        ["inspect", tmp_path / NAME],
        ["transcribe", "-m", tmp_path / NAME, CLIP],
        ["diff", tmp_path / NAME, tmp_path / NAME],
    ):
        result = run(*arguments)
        assert result.code == 4
        assert_shown(result.err)


def test_what_python_prints_shows_names():
    """Warnings, log records and failures that nobody foresaw."""
    code = f"""
import logging, sys, warnings
from voxtral_onnx.cli.terminal import own_messages
own_messages()
name = {NAME!r}
warnings.warn(name)
logging.getLogger("huggingface_hub").warning(name)
logging.warning("%s: %d: %s", name, 1, ValueError(name))
raise ValueError(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=60
    )
    shown = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" in shown
    assert is_safe(shown)
    assert shown.count(SHOWN.partition("\\n")[0]) == 5


def test_nothing_else_writes_to_a_terminal():
    """Commands print through cli/terminal.py alone, and no other room prints."""
    for file in FILES:
        if file.relative_to(ROOT).parts[:1] == ("tests",) or file.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                written = re.search(
                    r"(^|\.)(print|echo|secho|Console|(stdout|stderr)\.write)$", name
                )
                ours = ("stdout.print", "stderr.print", "console.print")
                is_ours = file.parent.name == "cli" and name in ours
                assert not written or is_ours, f"{file}: {ast.unparse(node)}"
