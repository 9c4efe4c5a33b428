"""The line below the words, on terminals of any kind and width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import termios
import unicodedata
from contextlib import suppress

import pytest
from support.commands import CLIP, LONG_CLIP, TEXT, TEXTS

from voxtral_onnx.cli import screen, terminal

WIDE = "会議の録音二〇二六年十一月二十六日東京本社第三会議室の記録"
JOINED = unicodedata.normalize("NFD", "é" * 60)


class Terminal:
    """A terminal of which a program gets one end."""

    def __init__(self, columns: int):
        self.ours, self.theirs = pty.openpty()
        self.resize(columns)
        self.shown = b""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read_until(self, pattern: bytes) -> None:
        while not re.search(pattern, self.shown):
            assert select.select([self.ours], [], [], 60)[0], self.shown
            self.shown += os.read(self.ours, 4096)

    def read(self) -> str:
        """All that is shown, until the program has ended."""
        os.close(self.theirs)
        with suppress(OSError):  # how Linux says that the other end of a terminal is closed
            while piece := os.read(self.ours, 4096):
                self.shown += piece
        return self.shown.decode()


@pytest.fixture
def open_terminal():
    opened = []

    def open_terminal(columns: int = 80) -> Terminal:
        opened.append(Terminal(columns))
        return opened[-1]

    yield open_terminal
    for each in opened:
        for file in (each.ours, each.theirs):
            with suppress(OSError):
                os.close(file)


def status_lines(shown: str) -> list[str]:
    return re.findall("\x1b\\[2m(.*?)\x1b\\[m", shown, re.DOTALL)


def width(line: str) -> int:
    """Columns of a terminal that joins nothing."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in line)


@pytest.mark.parametrize(
    ("columns", "name", "environment"),
    [
        (60, WIDE, {}),
        (60, JOINED, {}),
        (20, WIDE, {}),
        (0, WIDE, {}),
        (60, WIDE, {"COLUMNS": "200"}),
        (60, WIDE, {"PYTHONIOENCODING": "ascii"}),
    ],
)
def test_the_status_line_is_cut_to_the_terminal(
    columns, name, environment, open_terminal, start, tmp_path, monkeypatch
):
    """Where it were longer, it would take two lines, and the next would not overwrite it."""
    shutil.copyfile(LONG_CLIP, tmp_path / f"{name}.wav")
    ours = open_terminal(columns)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    process = start("transcribe", tmp_path / f"{name}.wav", stdout=ours.theirs, stderr=ours.theirs)
    lines = status_lines(ours.read())
    assert process.wait(60) == 0
    assert len(set(lines)) > 1 and max(map(width, lines)) < (columns or 80)
    if columns != 20:
        assert max(map(width, lines)) > (columns or 80) - 3  # no more is cut than must be


@pytest.mark.parametrize("columns", [80, 120])
def test_the_line_below_the_words_has_bar_percent_and_time_left(
    columns, open_terminal, start, minute
):
    ours = open_terminal(columns)
    process = start("transcribe", minute, stdout=ours.theirs, stderr=ours.theirs)
    lines = status_lines(ours.read())
    assert process.wait(60) == 0
    shown = [
        re.match(r"━*─* +(\d+)%, \d:\d\d left, \d:\d\d of 1:\d\d of minute", line) for line in lines
    ]
    shares = [int(found[1]) for found in shown if found]
    assert shares == sorted(shares) and len(set(shares)) > 1


def test_one_more_column_is_too_many(monkeypatch):
    assert terminal.fit("a会b", 4) == "a会b"
    assert terminal.fit("a会b", 3) == "a会"
    assert terminal.fit("a会b", 2) == "a"
    assert terminal.fit("a\nb\x1b[2J", 60) == "a\\nb\\u001b[2J"
    assert terminal.fit("e\u0301", 1) == "é"


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_be_drawn_on(term, open_terminal, start, monkeypatch):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    ours = open_terminal()
    process = start("transcribe", CLIP, stdout=ours.theirs, stderr=ours.theirs)
    shown = ours.read()
    assert process.wait(60) == 0
    assert "\x1b" not in shown and "\r" not in shown.replace("\r\n", "\n")
    assert f"\n{TEXT}\n" in shown.replace("\r\n", "\n")


@pytest.mark.parametrize("arguments", [["transcribe", CLIP], ["verify", "--rungs", "0"]])
def test_a_log_is_no_terminal(arguments, process, tiny_artifact, monkeypatch):
    """Colours perhaps, where they are asked for."""
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(variable, "1")
    model = ["-m", tiny_artifact] if arguments[0] == "transcribe" else [tiny_artifact]
    result = process(*arguments, *model)
    assert result.code == 0
    assert "\r" not in result.err and not re.search("\x1b\\[[0-9;?]*[^0-9;?m]", result.err)


def test_colours_as_they_are_asked_for(monkeypatch, run):
    for variable, value, is_coloured in (
        ("FORCE_COLOR", "1", True), ("FORCE_COLOR", "", False), ("NO_COLOR", "1", False)
    ):  # fmt: skip
        monkeypatch.setenv(variable, value)
        monkeypatch.setattr(terminal, "stderr", terminal.Console(stderr=True))
        error = run("inspect", "nowhere").err
        assert ("\x1b[1;31merror:\x1b[0m" in error) == is_coloured
        assert ("\x1b" in error) == is_coloured
        monkeypatch.delenv(variable)


def test_words_stay_whole_where_a_terminal_becomes_narrower(open_terminal, start):
    ours = open_terminal(100)
    process = start(
        "transcribe", "--threads", "1", LONG_CLIP, stdout=ours.theirs, stderr=ours.theirs
    )
    ours.read_until(rb"temperature")
    ours.resize(40)
    shown = ours.read()
    assert process.wait(60) == 0
    assert shown.count("\x1b[J\r\n") == 2  # a new line there, and the end
    words = re.sub("\x1b\\[2m.*?\x1b\\[m|\x1b\\[[0-9]*[A-Za-z]", "", shown)
    assert "".join(TEXTS[LONG_CLIP.name].split()) in "".join(words.split())


def test_a_terminal_that_hangs_up(open_terminal, start, tmp_path):
    """What goes into files does not need it, and nobody hears of an error."""
    ours = open_terminal()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), ours.theirs)
    process = start("transcribe", "-o", tmp_path / "out", CLIP, LONG_CLIP, **streams)
    ours.read_until(rb"what")
    os.close(ours.theirs)
    os.close(ours.ours)  # not its controlling terminal, so that no signal comes
    assert process.wait(60) == 9
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"{CLIP.stem}.txt", f"{LONG_CLIP.stem}.txt"
    }  # fmt: skip


def test_keys_of_a_terminal_that_hangs_up():
    """Nothing is raised, in a thread or behind it."""

    class Microphone:
        is_paused, dropped_seconds = False, 0.0

    ours, theirs = pty.openpty()
    kept = os.dup(0)
    os.dup2(theirs, 0)
    os.close(theirs)
    try:
        with os.fdopen(0, closefd=False) as stdin, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            key = screen.PauseKey(Microphone(), None, None)  # type: ignore[arg-type]
            with key:
                os.close(ours)
                key.reading.join(60)
                assert not key.reading.is_alive()
    finally:
        os.dup2(kept, 0)
        os.close(kept)
