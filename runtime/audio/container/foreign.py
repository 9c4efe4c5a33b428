"""Suppression of the lines that a C library, libmpg123, writes to stderr by itself."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2
# Lines of libmpg123, which no option turns off. Source: src/libmpg123/debug.h of mpg123
_FOREIGN = re.compile(
    rb"\[[^\n]*libmpg123[^\n]*(?:\n|\Z)|(?:\A|(?<=\n))\n?(?:Note|Warning): [^\n]*(?:\n|\Z)"
)
_one_at_a_time = threading.RLock()


@contextmanager
def without_foreign_lines(is_expected: bool = True) -> Iterator[list[bytes]]:
    """Drop what libmpg123 writes to stderr inside the block; other lines appear after it.

    Yields a list that holds the dropped lines after the block. A file descriptor belongs to the
    whole process, so only one thread at a time runs such a block.

    Args:
        is_expected: whether libmpg123 may be used; if not, stderr is left alone.
    """
    foreign: list[bytes] = []
    if not is_expected:
        yield foreign
        return
    with _one_at_a_time:
        try:
            stderr, written = os.dup(STDERR), tempfile.TemporaryFile()  # noqa: SIM115
        except OSError:  # stderr is closed, or there is nowhere to keep lines
            yield foreign
            return
        with written:
            os.dup2(written.fileno(), STDERR)
            try:
                yield foreign
            finally:
                os.dup2(stderr, STDERR)
                os.close(stderr)
                written.seek(0)
                lines = written.read()
                foreign += _FOREIGN.findall(lines)
                if kept := _FOREIGN.sub(b"", lines):
                    os.write(STDERR, kept)
