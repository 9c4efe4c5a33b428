"""Standard input, output and error that are always there, and say in our words what they cannot do.

A program may be started without any of them, with a full disk or a reader that leaves behind them,
and with an encoding of few characters.
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
    """The end of standard output or error; once it cannot be written, what follows is dropped."""

    def __init__(self, raw: Any, *, is_result: bool):
        """Stand before a raw stream, or for one that is not there, None."""
        self._raw, self._is_ended = raw, False
        self.is_result = is_result  # a failure ends the program; else it goes on without
        self.failure: OSError | None = None

    @property
    def is_absent(self) -> bool:
        """Return whether the program was started without it."""
        return self._raw is None

    @property
    def exit_code(self) -> int:
        """Return the exit code of a failure."""
        left = isinstance(self.failure, BrokenPipeError)
        return NO_READER if left else StorageError.exit_code

    def write(self, data: Any) -> int:
        """Write what can be written at once.

        Raises:
            SystemExit: a result cannot be written; nothing that keeps errors of files keeps it.
        """
        if self.failure is None:
            try:
                return self._write(data)
            except OSError as error:
                self.failure = error
        if self.is_result and not self._is_ended:
            self._is_ended = True  # the interpreter flushes once more
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
        """Return that it is, whatever becomes of it."""
        return True

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            OSError: it has none.
        """
        return super().fileno() if self._raw is None else self._raw.fileno()


class NoInput(io.RawIOBase):
    """Standard input of a program that was started without."""

    def readable(self) -> bool:
        """Return that it can be asked."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Refuse to be read.

        Raises:
            AudioError: always.
        """
        raise AudioError("standard input is closed: name a file, or give it one: < FILE")

    def fileno(self) -> int:
        """Refuse to be read; as `readinto`."""
        return self.readinto(b"")


def require_stdin() -> None:
    """Refuse to read standard input where there is none.

    Raises:
        AudioError: it is closed.
    """
    if isinstance(getattr(getattr(sys.stdin, "buffer", None), "raw", None), NoInput):
        sys.stdin.fileno()


def own_streams() -> None:
    """Put streams of ours into the places of the standard ones; what stands in for them stays."""
    _occupy_descriptors()
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(NoInput()), "utf-8")
    codecs.register_error("escape", lambda error: _escape(error, is_said=False))
    codecs.register_error("escape-said", lambda error: _escape(error, is_said=True))
    _escaped.clear()
    sys.stdout = _owned(sys.stdout, "escape-said", is_result=True)
    sys.stderr = _owned(sys.stderr, "escape", is_result=False)


def claim_stdout(*, is_only_place: bool) -> None:
    """Say whether a result has no other place than standard output.

    If it has, what standard output cannot take shows in the exit code, after the work.

    Raises:
        StorageError: it has none, and the program was started without standard output.
    """
    if (outlet := stdout_outlet()) is None:
        return
    outlet.is_result = is_only_place
    if outlet.is_absent and is_only_place:
        outlet.is_result = False  # said here
        raise StorageError("standard output is closed: add --output-dir FOLDER for the text")


def stdout_outlet() -> Outlet | None:
    """Return the end of standard output, or None where something stands in for it."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def is_taken_by_stdout() -> bool:
    """Return whether standard output has taken all that was written to it."""
    sys.stdout.flush()
    outlet = stdout_outlet()
    return outlet is None or outlet.failure is None


def escaped_in() -> str | None:
    """Return the encoding of standard output if it lacked characters, which became escapes."""
    return sys.stdout.encoding if _escaped else None


_escaped: list[str] = []  # what standard output lacked


def _escape(error: UnicodeError, *, is_said: bool) -> tuple[str, int]:
    r"""Return characters that an encoding lacks as JSON writes them, \u00e9: JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if is_said:
        _escaped[:] = [lacking]
    return json.dumps(lacking)[1:-1], error.end


def _owned(stream: Any, errors: str, *, is_result: bool) -> Any:
    raw, encoding, has_lines = None, "utf-8", False
    if stream is not None:
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # unbuffered, it has only the one
        if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.RawIOBase):
            return stream
        with suppress(OSError):
            stream.flush()
        encoding, has_lines = stream.encoding, stream.line_buffering
    end = io.BufferedWriter(Outlet(raw, is_result=is_result))
    return io.TextIOWrapper(end, encoding, errors, line_buffering=has_lines)


def _occupy_descriptors() -> None:
    """Let no file that is opened later become descriptor 0, 1 or 2, into which libraries write."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The wrong way round, so that using it fails as if it were closed
            mode = os.O_RDONLY if descriptor else os.O_WRONLY
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
