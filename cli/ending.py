"""Turn signals and errors that end a run into one line on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from ..errors import DeviceError, StorageError, VoxtralOnnxError
from ..escaping import one_line, printable
from . import streams
from .exit_codes import HUNG_UP, INTERRUPTED, NO_READER, TERMINATED
from .terminal import draw, info, print_error

DEBUG = "VOXTRAL_ONNX_DEBUG"  # set to 1: errors are printed with tracebacks
# Exit codes of the signals that unwind a run as an exception does, so that no partial file stays
# and decoded text is shown; Windows has no SIGHUP
STOPS = {signal.SIGTERM: TERMINATED} | ({signal.SIGHUP: HUNG_UP} if sys.platform != "win32" else {})
PACKAGE = Path(__file__).parents[1]


@contextmanager
def orderly_stops() -> Iterator[None]:
    """Make the signals of STOPS raise SystemExit, except those already ignored, as under nohup."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(STOPS[signal.Signals(number)])

    taken = [
        number
        for number in STOPS
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def code_of(error: BaseException) -> int:
    """Print an error that ended the run as one line, and return its exit code."""
    if os.environ.get(DEBUG) == "1" and not isinstance(error, SystemExit):
        draw(printable("".join(traceback.format_exception(error))))
    if (code := _stop_code(error)) is not None:
        return code
    if isinstance(error, typer.Abort) and error.__cause__ is not None:
        error = error.__cause__  # an EOFError, which the option parser takes for Ctrl-D
    if isinstance(error, VoxtralOnnxError):
        print_error(error)
        return error.exit_code
    if isinstance(error, MemoryError):
        why = f" ({one_line(str(error))})" if str(error) else ""
        print_error(f"not enough memory{why}; end other programs, or use a smaller precision")
        return DeviceError.exit_code
    if isinstance(error, OSError):
        places = [str(name) for name in (error.filename, error.filename2) if name is not None]
        print_error(": ".join([*places, error.strerror or str(error) or type(error).__name__]))
        return StorageError.exit_code
    print_error(
        f"internal: {type(error).__name__}: {error} at {_place_of(error)}; run it again with "
        f"{DEBUG}=1 for the traceback, and report it"
    )
    return VoxtralOnnxError.exit_code


def _stop_code(error: BaseException) -> int | None:
    """Return the exit code of a Ctrl-C or SystemExit; None for any other error.

    Libraries turn Ctrl-C into errors of their own, so the whole chain of causes is searched.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return INTERRUPTED
        if isinstance(seen, SystemExit):
            return seen.code if isinstance(seen.code, int) else int(seen.code is not None)
        seen = seen.__cause__ or seen.__context__
    return None


def _place_of(error: BaseException) -> str:
    """Return `file:line` of an error's innermost frame in this package, or in any."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if PACKAGE in Path(frame.filename).parents]
    frame = (ours or frames)[-1]
    path = Path(frame.filename)
    name = path.relative_to(PACKAGE).as_posix() if ours else path.name
    return f"{name}:{frame.lineno}"


def finish(code: int) -> int:
    """Report what standard output could not take, and return the exit code of the run."""
    try:
        sys.stdout.flush()
    except SystemExit as stop:
        code = code or code_of(stop)
    if encoding := streams.escaped_in():
        info(
            f"note: standard output is {encoding}: characters that it lacks are written as "
            "\\u00e9; set PYTHONIOENCODING=utf-8 or PYTHONUTF8=1 to write them unchanged"
        )
    outlet = streams.stdout_outlet()
    if outlet is None or outlet.failure is None or (outlet.is_absent and not outlet.is_result):
        return code
    if outlet.exit_code != NO_READER:
        print_error(f"standard output: cannot be written ({outlet.failure.strerror})")
    return code or outlet.exit_code
