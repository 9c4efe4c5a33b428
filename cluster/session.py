"""Connect to a cluster of Ray, or start one on this machine, without Ray's own messages."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ..errors import DeviceError
from ..threads import num_cores

# Before Ray is imported: it reports nothing to its makers, and leaves CUDA's variables as they are
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.data

ANSWER_SECONDS = 10.0  # for a cluster to answer
HERE = "local"  # the address of a cluster that is started on this machine, and ended with the run


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster, unless this process is connected to one.

    Args:
        address: HERE, or what `ray.init` takes: `auto`, `HOST:PORT`.

    Raises:
        DeviceError: there is none.
    """
    with _quiet():
        if ray.is_initialized():
            yield
            return

        # Connect
        is_main = threading.current_thread() is threading.main_thread()
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            _require_answer(address)
            facts: dict[str, Any] = {}
            if address == HERE:  # Ray's own work, which takes no time, waits for a core
                facts = {"include_dashboard": False, "num_cpus": num_cores() + 1}
            with _no_stderr():  # on which Ray says that it will say nothing
                ray.init(address, log_to_driver=False, logging_level="CRITICAL", **facts)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise DeviceError(
                f"Ray: no cluster at {address} ({' '.join(str(error).split())[:200]}); start one "
                "with ray start --head, or leave --address out to use this machine alone"
            ) from error
        finally:
            if is_main:  # which Ray sets
                signal.signal(signal.SIGTERM, on_term)

        # Let it be used
        try:
            yield
        finally:
            ray.shutdown()
            if is_main:  # again
                signal.signal(signal.SIGTERM, on_term)


def _require_answer(address: str) -> None:
    """Ask whether anything answers at HOST:PORT, where Ray would try for minutes.

    Raises:
        OSError: nothing does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what Ray writes: its log, its warnings, and what it prints.

    It stands in the files of Ray's own log.
    """
    names = ("ray", "ray.data", "ray.serve")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings(), redirect_stdout(_Nowhere()):
        for kind in (DeprecationWarning, FutureWarning):  # of its own functions
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", module="ray")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep what libraries write to the descriptor of stderr."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Nowhere(io.StringIO):
    """Standard output that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)
