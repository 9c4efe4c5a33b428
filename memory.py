"""Memory of this process in bytes: used, available, and the limits on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number beyond this


def available_memory(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes that this process may still take, None where the system does not tell.

    They are the least that the system (with its swap), the process's control groups and RLIMIT_AS
    leave.
    """
    known = list(_cgroups_left(proc, cgroups))
    system = _fields(proc / "meminfo")
    if "MemAvailable" in system:
        known.append(system["MemAvailable"] + system.get("SwapFree", 0))
    if (mapped := mapped_memory(proc)) and (limit := address_limit()) is not None:
        known.append(max(0, limit - mapped))
    return min(known, default=None)


def total_memory() -> int | None:
    """Return the bytes of the machine's memory, None where the system does not tell."""
    return _fields(Path("/proc/meminfo")).get("MemTotal")


def peak_memory() -> int:
    """Return the peak resident bytes of this process, 0 where the system does not tell."""
    if (peak := _fields(Path("/proc/self/status")).get("VmHWM")) is not None:
        return peak  # ru_maxrss would include the parent's memory when it started this process
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_memory() -> int:
    """Return the resident bytes of this process, 0 where the system does not tell."""
    return _fields(Path("/proc/self/status")).get("VmRSS", 0)


def mapped_memory(proc: Path = Path("/proc")) -> int:
    """Return the bytes of address space that this process has mapped, 0 if that is not known."""
    return _fields(proc / "self" / "status").get("VmSize", 0)


def address_limit() -> int | None:
    """Return the bytes of address space that this process may map (`ulimit -v`), None for any."""
    if sys.platform != "linux":  # elsewhere nothing enforces the limit
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _cgroups_left(proc: Path, root: Path) -> Iterator[int]:
    """Yield the bytes that each control group with a memory limit has left.

    Groups are those of version 1 or 2, from this process's up to the mount's. Inside a container
    the path may be the host's, of which only the mount itself is visible.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        below = PurePosixPath(path.lstrip("/"))
        for folder in (below, *below.parents):
            limit, used = (_number(base / folder / name) for name in names[:2])
            if limit is not None and used is not None and limit < UNLIMITED:
                # The system frees cached files when memory is needed
                cached = _statistics(base / folder / "memory.stat").get(names[2], 0)
                yield max(0, limit - used + cached)


def _fields(path: Path) -> dict[str, int]:
    """Read the sizes in a file like /proc/meminfo as bytes by name."""
    try:
        words = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {name: int(rest[0]) << 10 for name, *rest in words if len(rest) == 2 and rest[1] == "kB"}


def _statistics(path: Path) -> dict[str, int]:
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {name: int(value) for name, value in words}


def _number(path: Path) -> int | None:
    """Read a file's number; return None where there is no such file, or it says `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
