"""Standard streams that are always there, and whose failures become our messages and exit codes.

A program may be started without some of them, with a full disk or a reader that leaves at their
other end, and with an encoding of few characters.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from contextlib import suppress
from typing import Any

from ..errors import AudioError, StorageError
from .exit_codes import NO_READER


class Outlet(io.RawIOBase):
    """The end of standard output or error; after it has failed, what is written is dropped."""

    def __init__(self, raw: Any, *, is_result: bool):
        """Wrap a raw stream; None stands for one that the program was started without."""
        self._raw, self._is_ended = raw, False
        self.is_result = is_result  # whether a failure ends the program
        self.failure: OSError | None = None

    @property
    def is_absent(self) -> bool:
        """Return whether the program was started without this stream."""
        return self._raw is None

    @property
    def exit_code(self) -> int:
        """Return the exit code of the failure: that of a reader that left, or of storage."""
        left = isinstance(self.failure, BrokenPipeError)
        return NO_READER if left else StorageError.exit_code

    def write(self, data: Any) -> int:
        """Write bytes, and return how many were taken; after a failure, all are dropped.

        Raises:
            SystemExit: a result cannot be written; no handler of one file's errors catches this.
        """
        if self.failure is None:
            try:
                return self._write(data)
            except OSError as error:
                self.failure = error
        if self.is_result and not self._is_ended:
            self._is_ended = True  # raised once: the interpreter flushes again at its end
            raise SystemExit(self.exit_code)
        return len(data)

    def _write(self, data: Any) -> int:
        if self._raw is None:
            raise OSError(errno.EBADF, "it is closed")
        while (count := self._raw.write(data)) is None:  # another program made it non-blocking
            from select import select

            select([], [self._raw], [])
        return count

    def writable(self) -> bool:
        """Return True, after a failure too."""
        return True

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Return the file descriptor.

        Raises:
            OSError: there is none.
        """
        return super().fileno() if self._raw is None else self._raw.fileno()


class NoInput(io.RawIOBase):
    """The standard input of a program that was started without one; it refuses to be read."""

    def readable(self) -> bool:
        """Return True, so that readers ask for data and get the error."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Refuse to be read.

        Raises:
            AudioError: always.
        """
        raise AudioError("standard input is closed: name a file, or give it one: < FILE")

    def fileno(self) -> int:
        """Refuse to be read, as `readinto` does."""
        return self.readinto(b"")


def require_stdin() -> None:
    """Require standard input.

    Raises:
        AudioError: the program was started without it.
    """
    if isinstance(getattr(getattr(sys.stdin, "buffer", None), "raw", None), NoInput):
        sys.stdin.fileno()


def own_streams() -> None:
    """Replace the standard streams by ours; streams that a caller has put there stay."""
    _occupy_descriptors()
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(NoInput()), "utf-8")
    codecs.register_error("escape", lambda error: _escape(error, is_said=False))
    codecs.register_error("escape-said", lambda error: _escape(error, is_said=True))
    _escaped.clear()
    sys.stdout = _owned(sys.stdout, "escape-said", is_result=True)
    sys.stderr = _owned(sys.stderr, "escape", is_result=False)


def claim_stdout(*, is_only_place: bool) -> None:
    """Set whether standard output is the only place that gets a result.

    A failure of the only place ends the program at once; another one shows in the exit code, after
    the work.

    Raises:
        StorageError: it is the only place, and the program was started without it.
    """
    if (outlet := stdout_outlet()) is None:
        return
    outlet.is_result = is_only_place
    if outlet.is_absent and is_only_place:
        outlet.is_result = False  # reported here, and not again at the end
        raise StorageError("standard output is closed: add --output-dir FOLDER for the text")


def stdout_outlet() -> Outlet | None:
    """Return the end of standard output, or None if a caller has put another stream there."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def is_taken_by_stdout() -> bool:
    """Return whether standard output has taken all that was written to it."""
    sys.stdout.flush()
    outlet = stdout_outlet()
    return outlet is None or outlet.failure is None


def escaped_in() -> str | None:
    """Return the encoding of standard output if characters had to be escaped in it."""
    return sys.stdout.encoding if _escaped else None


_escaped: list[str] = []  # the last characters that standard output's encoding lacked


def _escape(error: UnicodeError, *, is_said: bool) -> tuple[str, int]:
    r"""Return characters that an encoding lacks as JSON's escapes, \u00e9: JSON stays valid."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if is_said:
        _escaped[:] = [lacking]
    return json.dumps(lacking)[1:-1], error.end


def _owned(stream: Any, errors: str, *, is_result: bool) -> Any:
    """Return a text stream over an `Outlet` for a standard stream; one of a caller's as it is."""
    raw, encoding, has_lines = None, "utf-8", False
    if stream is not None:
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # an unbuffered stream has no other
        if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.RawIOBase):
            return stream
        with suppress(OSError):
            stream.flush()
        encoding, has_lines = stream.encoding, stream.line_buffering
    end = io.BufferedWriter(Outlet(raw, is_result=is_result))
    return io.TextIOWrapper(end, encoding, errors, line_buffering=has_lines)


def _occupy_descriptors() -> None:
    """Fill closed descriptors 0, 1 and 2, so that no file opened later becomes one of them.

    Libraries write to these descriptors, whatever they are.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Opened in the wrong direction, so that using it fails as if it were closed
            mode = os.O_RDONLY if descriptor else os.O_WRONLY
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
