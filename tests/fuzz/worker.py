"""One process that gives inputs to a parser, each within limits, and writes what became of them.

A line of JSON an input on standard output, after one that says that it begins. Whoever started it
(runner.py) counts its death as a find of the input that it was at.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from fuzz.mutate import mutant

import voxtral_onnx
from voxtral_onnx.errors import VoxtralOnnxError

ROOTS = (Path(voxtral_onnx.__file__).parent, Path(__file__).parent)
Parse = Callable[[bytes, Path], None]
_HOSTS = {"127.0.0.1", "::1", "localhost", "", None}
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
_CHANGES = {
    f"os.{name}" for name in ("remove", "rename", "mkdir", "rmdir", "symlink", "link", "truncate")
}


class EscapeError(BaseException):
    """A parser that writes, reads, calls or starts what it has no business with."""


class Fence:
    """Python's audit hook: while an input is parsed, its folder is all there is to write."""

    def __init__(self, base: Path):
        self.base = base
        self.folder: Path | None = None  # of the input that is parsed
        self.escaped = ""
        sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        reason = None
        if event == "open":
            reason = self._opens(*arguments)
        elif event in _CHANGES:
            paths = [path for path in arguments if isinstance(path, str | bytes | os.PathLike)]
            reason = next((f"{event} {path!r}" for path in paths if not self._own(path)), None)
        elif event in _PROGRAMS:
            reason = f"starts {arguments[0]!r}"
        elif event in ("socket.connect", "socket.getaddrinfo"):
            place = arguments[1] if event == "socket.connect" else arguments
            if isinstance(place, tuple) and place[0] not in _HOSTS:
                reason = f"calls {place!r}"
        if reason:
            self.escaped = reason
            raise EscapeError(reason)

    def _opens(self, path: object, mode: object, flags: int) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike) or os.fspath(path) == os.devnull:
            return None
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return None if self._own(path) else f"writes {path!r}"
        place = self._resolved(path)
        is_secret = place.is_relative_to(self.base) or place.is_relative_to("/etc")
        return f"reads {path!r}" if is_secret and not self._own(path) else None

    def _own(self, path: str | bytes | os.PathLike) -> bool:
        place = self._resolved(path)
        own = [folder for folder in (self.folder, self.base / "home") if folder]
        return any(place.is_relative_to(folder) for folder in own)

    @staticmethod
    def _resolved(path: str | bytes | os.PathLike) -> Path:
        return Path(os.path.realpath(os.fsdecode(path)))


def judge(parse: Parse, content: bytes, folder: Path) -> tuple[str, str]:
    """Return `taken`, `refused`, or the kind of a find, and what is known of it."""
    try:
        parse(content, folder)
    except VoxtralOnnxError as error:
        return "refused", str(error)[:500]
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = next((frame for frame in reversed(frames) if _is_ours(frame.filename)), frames[-1])
        kind = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        return kind, "".join(traceback.format_exception(error))[-3000:]
    return "taken", ""


def _is_ours(file: str) -> bool:
    """Say whether a line is the package's or a target's."""
    below = [Path(file).relative_to(r) for r in ROOTS if Path(file).is_relative_to(r)]
    return file != __file__ and any("site-packages" not in path.parts for path in below)


def main(
    target: str, start: int, stop: int, base: str, seconds: float, idle: float, memory: int
) -> None:
    """Run the inputs of these numbers.

    Args:
        target: the dotted name of its module.
        start: the first number.
        stop: the one after the last.
        base: a folder, with what is to be kept out of reach beside the inputs' folders.
        seconds: of CPU for an input; the system ends the process after that.
        idle: seconds for one that waits.
        memory: bytes that may be allocated on top of what good inputs take.
    """
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # parsers may print
    tempfile.tempdir = str(Path(base) / "home")
    os.fsync = lambda fd: None  # nothing here has to survive a power cut
    module = importlib.import_module(target)
    seeds: dict[str, bytes] = module.seeds()

    def attempt(name: str, content: bytes) -> tuple[str, str]:
        folder = Path(base) / name
        folder.mkdir()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, idle)
        fence.folder, fence.escaped = Path(os.path.realpath(folder)), ""
        verdict, detail = judge(module.parse, content, folder)
        fence.folder = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        shutil.rmtree(folder)
        return (fence.escaped or verdict), detail

    fence = Fence(Path(os.path.realpath(base)))
    for name, content in seeds.items():  # loads what is loaded late
        verdict, detail = attempt(f"seed-{name}", content)
        if verdict != "taken":
            sys.exit(f"{target}: seed {name}: {verdict}: {detail}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    usual = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("begin", file=answer)
    for number in range(start, stop):
        content = mutant(seeds, target, number)
        began = time.process_time()
        verdict, detail = attempt(str(number), content)
        took = time.process_time() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - usual  # KiB
        print(json.dumps([number, verdict, took, grown << 10, detail]), file=answer)
    os._exit(0)  # whatever threads a parser has left


if __name__ == "__main__":
    target, start, stop, base, seconds, idle, memory = sys.argv[1:]
    main(target, int(start), int(stop), base, float(seconds), float(idle), int(memory))
