"""Print results to stdout, and errors and notes to stderr; write times and sizes for people.

All that is printed goes through here, because most of it quotes somebody: a terminal gets no
control characters but ours.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import rich.console
import typer
from rich.segment import Segment
from rich.text import Text

from ..errors import StorageError, UsageError
from ..escaping import one_line, printable
from .exit_codes import INTERRUPTED, NO_READER

INDENT = "\n  "  # before the further lines of a message of ours


class Console(rich.console.Console):
    """Prints strings as they are, without markup, each as a line."""

    def __init__(self, *, stderr: bool = False):
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)

    def _write_buffer(self) -> None:
        with _stdout_errors() if not self.stderr else nullcontext():
            super()._write_buffer()

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
    """Write a result to stdout at once; a reader that left ends the process quietly."""
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
    with _stdout_errors():
        if isinstance(content, bytes):
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)
        sys.stdout.flush()


@contextmanager
def _stdout_errors() -> Iterator[None]:
    """End quietly where the reader left, and with an error where nothing can be written."""
    try:
        yield
    except OSError as error:
        # Or the interpreter fails again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(NO_READER) from None
        raise StorageError(
            f"standard output: cannot be written ({error.strerror or error})"
        ) from error


def write_json(value: Any) -> None:
    """Write a value as one line of JSON."""
    write(json.dumps(value, ensure_ascii=False) + "\n")


def draw(content: str) -> None:
    """Send to stderr what is ours, control characters included."""
    sys.stderr.write(content)
    sys.stderr.flush()


def info(message: str) -> None:
    """Print a line on stderr."""
    stderr.print(message)


def print_error(error: Exception | str) -> None:
    """Print on stderr what went wrong."""
    stderr.print(styled(("error:", "bold red"), f" {error}"))


def own_stderr() -> None:
    """Print what Python itself prints on stderr here: warnings, log records, failures of ours."""

    def show_failure(*failure: Any) -> None:
        sys.stderr.write(printable("".join(traceback.format_exception(*failure))))

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
