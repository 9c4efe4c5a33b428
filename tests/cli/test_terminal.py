"""Times and sizes as people read them."""

from __future__ import annotations

import io
import sys

import pytest
import typer

from voxtral_onnx.cli import exit_codes, terminal
from voxtral_onnx.errors import UsageError


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
