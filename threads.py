"""Threads: how many cores this process has, and how many threads may be asked for."""

from __future__ import annotations

import os

from .arguments import INTEGER
from .errors import UsageError
from .escaping import quoted
from .limits import MOST_THREADS_PER_CORE


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> int:
    """Return the number of threads that were asked for; None asks for one a core.

    Raises:
        UsageError: none, or so many that they take memory and only wait for each other.
    """
    cores = num_cores()
    if threads is None:
        return cores
    asked: int = INTEGER.check("threads", threads)
    most = MOST_THREADS_PER_CORE * cores
    if not 1 <= asked <= most:
        raise UsageError(
            f"threads: expected 1 to {most}, {MOST_THREADS_PER_CORE} for each of this machine's "
            f"{cores} cores, got {quoted(asked)}"
        )
    return asked
