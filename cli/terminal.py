"""Print results to stdout, and errors and notes to stderr; write times and sizes for people."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import StorageError, UsageError, VoxtralOnnxError
from .exit_codes import INTERRUPTED, NO_READER

stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def write(text: str) -> None:
    """Write results to stdout at once; a reader that left ends the process quietly."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
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


def info(message: str) -> None:
    """Print a line on stderr."""
    stderr.print(escape(message))


def print_error(error: VoxtralOnnxError) -> None:
    """Print on stderr what went wrong."""
    stderr.print(f"[bold red]error:[/] {escape(str(error))}")


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
