"""Print results to stdout, and errors and notes to stderr; write times and sizes for people.

All that is printed goes through here, because most of it quotes somebody: a terminal gets no
control characters but ours.
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

INDENT = "\n  "  # before the further lines of a message of ours


class Console(rich.console.Console):
    """Prints strings as they are, without markup, each as a line."""

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
        self.is_interactive = self.is_terminal  # whatever the environment says

    @property
    def is_terminal(self) -> bool:
        """Return whether it can be drawn on: a wish for colours makes no terminal of a log."""
        if self._force_terminal is not None:
            return self._force_terminal
        is_dumb = self._environ.get("TERM", "").lower() in ("dumb", "unknown")
        return self.file.isatty() and not is_dumb

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except SystemExit:  # what stdout did not take is not sent again
            self._buffer.clear()
            raise

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text of a string that is printed, or stands in a table."""
        return super().render_str(_message(text), **options)

    def render(
        self, renderable: Any, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield what is sent: control characters are rich's own or none."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


stdout, stderr = Console(), Console(stderr=True)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a line of strings, some of which come with a style."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((_message(text), style) for text, style in pairs))


def _message(text: str) -> str:
    """Return a printable message, which keeps the line feeds before further lines of ours."""
    return INDENT.join(map(one_line, text.split(INDENT)))


def write(text: str) -> None:
    """Write a result to stdout at once."""
    send(printable(text))


def write_line(text: str) -> None:
    """Write a line of a result."""
    send(_message(text) + "\n")


def write_path(path: Path) -> None:
    """Write a path as a result: its own bytes, unless a terminal would get them."""
    if sys.stdout.isatty():
        write_line(str(path))
    else:
        send(os.fsencode(path) + os.linesep.encode())


def send(content: str | bytes) -> None:
    """Send to stdout what is ours, or safe for whoever reads it."""
    if isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        sys.stdout.write(content)
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write a value as one line of JSON."""
    write(json.dumps(value, ensure_ascii=False) + "\n")


def draw(content: str) -> None:
    """Send to stderr what is ours, control characters included."""
    sys.stderr.write(content)
    sys.stderr.flush()


def terminal_columns() -> int:
    """Return how wide the terminal behind stderr is now; 80 where nobody knows."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def fit(text: str, columns: int) -> str:
    """Return the beginning of a line of a stranger's words that fits into so many columns.

    No character is taken for narrower than a column: terminals differ in what they join.
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
    """Print a line on stderr."""
    stderr.print(message)


def print_error(error: Exception | str) -> None:
    """Print on stderr what went wrong."""
    stderr.print(styled(("error:", "bold red"), f" {error}"))


def own_messages() -> None:
    """Print what Python itself prints on stderr here: warnings, log records, failures of ours."""

    def show_failure(*failure: Any) -> None:
        sys.stderr.write(printable("".join(traceback.format_exception(*failure))))

    def show_ignored(failure: Any) -> None:  # of a thread, or of what is called when objects go
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
    """Ask on a terminal; refuse where nobody can answer.

    Raises:
        UsageError: no terminal.
    """
    if not sys.stdin.isatty():
        raise UsageError(refusal)
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C or Ctrl-D, behind which the line goes on
        stderr.print()
        agreed = False
    if not agreed:
        raise typer.Exit(INTERRUPTED)


def format_time(seconds: float) -> str:
    """Return seconds for people: 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes > 59 else f"{minutes}:{rest:02}"
    )


def format_size(num_bytes: int) -> str:
    """Return bytes for people: 8.2 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{1 if num_bytes < 100 * size else 0}f} {unit}"
    return f"{num_bytes} B"
