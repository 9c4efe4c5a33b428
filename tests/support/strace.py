"""Commands as on a user's machine, watched by strace: whom they call, and what they write where.

They run without a network, where the system lets a process do without one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support.commands import user_environment
from support.needs import require

_CALLS = ("connect", "sendto", "sendmsg", "sendmmsg")
_CALLS += ("open", "openat", "openat2", "creat", "mkdir", "mkdirat")
# Only the calls that are asked for stop a process
_STRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-e", "signal=none"]
# By address, or asking the system's resolver for one; netlink and the like stay on the machine
_CALLED = re.compile(r"sa_family=AF_INET|io\.systemd\.Resolve")
_OPENED = re.compile(r"^(?:open|creat).*(?:O_WRONLY|O_RDWR|O_CREAT|creat\().* = \d+<(.+)>$")
_MADE = re.compile(r'^mkdir(?:at)?\(.*?"(.+?)", .* = 0$')


def need_strace() -> None:
    works = shutil.which("strace") and _succeeds([*_STRACE, "-o", os.devnull, "true"])
    require("strace", {"strace, and permission to trace (apt-get install strace)": bool(works)})


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@cache
def _namespace() -> list[str]:
    """Return what starts a command without a network, or nothing where that is not allowed."""
    ways = (["unshare", "--net"], ["unshare", "--net", "--map-root-user"])
    return next((way for way in ways if shutil.which("unshare") and _succeeds([*way, "true"])), [])


@dataclass(frozen=True)
class Watched:
    """A command in a folder of its own, which holds its home, temporary files and output."""

    process: subprocess.Popen[bytes]
    folder: Path

    @classmethod
    def start(cls, folder: Path, *command: object) -> Watched:
        """Start a command in `folder`; its `work` is where it runs.

        Nothing else of the user's is there, and no variable says where to write.
        """
        for name in ("home", "tmp", "work", "trace"):
            (folder / name).mkdir(parents=True)
        kept = {k: v for k, v in user_environment().items() if not k.startswith(("XDG_", "HF_"))}
        environment = {
            **kept,
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        calls = ",".join(f"?{call}" for call in _CALLS)  # not every processor has them all
        # A file a thread, so that no line is cut in two
        traced = [*_STRACE, "-ff", "-e", f"trace={calls}", "-o", folder / "trace" / "t"]
        process = subprocess.Popen(
            [*_namespace(), *map(str, traced), *map(str, command)],
            cwd=folder / "work",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return cls(process, folder)

    def finish(self) -> tuple[str, str]:
        """Close its input, wait for its end and return what it printed."""
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err.decode()
        return out.decode(), err.decode()

    @property
    def called(self) -> list[str]:
        """System calls that reach for another machine."""
        return [line for line in self._lines() if _CALLED.search(line)]

    @property
    def left(self) -> set[str]:
        """Files that are there after it, by their paths below the folder."""
        paths = (path for path in self.folder.rglob("*") if not path.is_dir())
        names = {str(path.relative_to(self.folder)) for path in paths}
        return {name for name in names if not name.startswith("trace/")}

    @property
    def written_elsewhere(self) -> set[str]:
        """Files and folders outside the folder that it made or opened to write."""
        found = {
            match[1]
            for line in self._lines()
            for match in (_OPENED.match(line), _MADE.match(line))
            if match
        }
        paths = {(self.folder / "work" / name).resolve() for name in found}
        inside = (self.folder.resolve(), Path("/dev"))  # sound systems share memory in /dev/shm
        return {str(path) for path in paths if not any(map(path.is_relative_to, inside))}

    def _lines(self) -> list[str]:
        traces = sorted((self.folder / "trace").iterdir())
        return [line for trace in traces for line in trace.read_text(errors="replace").splitlines()]
