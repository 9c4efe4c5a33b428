"""Print results to stdout, errors and notes to stderr; format times and sizes for people.

All output goes through here, because most of it quotes files and users: no control characters but
ours reach a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rich.console
import typer
from rich.segment import Segment
from rich.text import Text

from ..errors import UsageError
from ..escaping import one_line, printable
from .exit_codes import INTERRUPTED

INDENT = "\n  "  # begins each further line of a message


class Console(rich.console.Console):
    """A rich console that prints each string as a line, as it is, without markup."""

    def __init__(self, *, stderr: bool = False):
        asked = os.environ.get("FORCE_COLOR") and os.environ.get("TERM") != "dumb"
        super().__init__(
            stderr=stderr,
            color_system="standard" if asked else "auto",
            highlight=False,
            soft_wrap=True,
            emoji=False,
            markup=False,
        )
        self.is_interactive = self.is_terminal  # not what the environment says

    @property
    def is_terminal(self) -> bool:
        """Return whether the stream can be drawn on.

        Rich asks FORCE_COLOR too, but a wish for colours makes no terminal of a log file.
        """
        if self._force_terminal is not None:
            return self._force_terminal
        is_dumb = self._environ.get("TERM", "").lower() in ("dumb", "unknown")
        return self.file.isatty() and not is_dumb

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except SystemExit:  # what stdout has refused is not sent again
            self._buffer.clear()
            raise

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as the text that is printed, or that stands in a table."""
        return super().render_str(_message(text), **options)

    def render(
        self, renderable: Any, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield segments of text without control characters, except rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


stdout, stderr = Console(), Console(stderr=True)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a line of text made of strings and of (string, style) pairs."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((_message(text), style) for text, style in pairs))


def _message(text: str) -> str:
    """Return a message without control characters, except the line feeds of INDENT."""
    return INDENT.join(map(one_line, text.split(INDENT)))


def write(text: str) -> None:
    """Write a result to stdout, and flush it."""
    send(printable(text))


def write_line(text: str) -> None:
    """Write a result to stdout as one line."""
    send(_message(text) + "\n")


def write_path(path: Path) -> None:
    """Write a path as a result: its own bytes, or safe text where stdout is a terminal."""
    if sys.stdout.isatty():
        write_line(str(path))
    else:
        send(os.fsencode(path) + os.linesep.encode())


def send(content: str | bytes) -> None:
    """Send to stdout, unchanged, text or bytes that are ours or known to be safe."""
    if isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        sys.stdout.write(content)
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write a value as one line of JSON."""
    write(json.dumps(value, ensure_ascii=False) + "\n")


def draw(content: str) -> None:
    """Send text of ours to stderr, control characters included."""
    sys.stderr.write(content)
    sys.stderr.flush()


def terminal_columns() -> int:
    """Return how many columns the terminal behind stderr has now; 80 if that is unknown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def fit(text: str, columns: int) -> str:
    """Return the beginning of a line of foreign text that fits into so many columns.

    Each character counts for one column at least: terminals differ in which ones they join.
    """
    encoding = stderr.encoding
    line = unicodedata.normalize("NFC", one_line(text))
    line = line.encode(encoding, "backslashreplace").decode(encoding)
    for end, character in enumerate(line):
        columns -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if columns < 0:
            return line[:end]
    return line


def info(message: str) -> None:
    """Print a note as a line on stderr."""
    stderr.print(message)


def print_error(error: Exception | str) -> None:
    """Print an error on stderr."""
    stderr.print(styled(("error:", "bold red"), f" {error}"))


def own_messages() -> None:
    """Print safely what Python prints on stderr: warnings, log records, errors nobody caught."""

    def show_failure(*failure: Any) -> None:
        sys.stderr.write(printable("".join(traceback.format_exception(*failure))))

    def show_ignored(failure: Any) -> None:  # in a thread, or in a finalizer
        name = getattr(failure.exc_type, "__name__", "")
        info(f"note: internal: {name}: {failure.exc_value}")

    def show_warning(message: Warning | str, *place: Any) -> None:
        info(f"note: {message}")

    def make_record(*args: Any, **options: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **options)
        record.msg = printable(str(record.msg))
        if isinstance(record.args, tuple):
            record.args = tuple(
                printable(str(part)) if isinstance(part, str | BaseException) else part
                for part in record.args
            )
        return record

    sys.excepthook, warnings.showwarning = show_failure, show_warning
    sys.unraisablehook, threading.excepthook = show_ignored, show_ignored
    logging.setLogRecordFactory(make_record)


def confirm(question: str, refusal: str) -> None:
    """Ask a question on the terminal, and exit unless the answer is yes.

    Args:
        question: answered with yes or no.
        refusal: the error's message where there is no terminal to ask on.

    Raises:
        UsageError: standard input is no terminal.
        typer.Exit: the answer is not yes.
    """
    if not sys.stdin.isatty():
        raise UsageError(refusal)
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C or Ctrl-D, after which the line is not ended
        stderr.print()
        agreed = False
    if not agreed:
        raise typer.Exit(INTERRUPTED)


def format_time(seconds: float) -> str:
    """Format seconds as 1:02:03, or as 2:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes > 59 else f"{minutes}:{rest:02}"
    )


def format_names(names: list[str]) -> str:
    """Format names as a list, of which three are written and the others counted."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def format_size(num_bytes: int) -> str:
    """Format a number of bytes as 8.2 MB, in powers of 1000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{1 if num_bytes < 100 * size else 0}f} {unit}"
    return f"{num_bytes} B"
