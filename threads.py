"""The number of cores that this process may use, and the limit on threads."""

from __future__ import annotations

import os

from .arguments import INTEGER
from .errors import UsageError
from .escaping import quoted
from .limits import MOST_THREADS_PER_CORE


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> int:
    """Return a requested number of threads after checking it; None stands for one for each core.

    Raises:
        UsageError: the number is less than 1, or so large that threads would only contend.
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
