"""The shared parts of all benchmarks: results files, clocks, processes, and models to measure.

A benchmark is a script with a `main` that `run` calls; typer makes its options from main's
parameters. `--out` names the results file, by default results/NAME.json. It begins with the values
of `describe`: date, command, versions, and the machine before anything is measured. For a short
run to try a benchmark out, name another file: `--out live.json`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from voxtral_onnx import __version__
from voxtral_onnx.errors import VoxtralOnnxError
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.runtime.locate import find_artifact
from voxtral_onnx.runtime.machine import describe_machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
BUILD = ROOT / "build"  # twins, artifacts, audio and other intermediate files
TWIN = BUILD / "twin"
PERCENTILES = {"min": 0, "p50": 50, "p95": 95, "p99": 99, "max": 100}

Model = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="Folder; tiny is exported to build/ first.")
]
Twin = Annotated[
    Path, typer.Option("--twin", help="Folder of twin.py's checkpoint; written where missing.")
]
Out = Annotated[Path, typer.Option("--out", help="Results file to write.")]

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def run(main: Callable[..., None]) -> None:
    """Run a benchmark's command line; print errors that a user can act on as one line."""
    try:
        typer.run(main)
    except VoxtralOnnxError as error:
        stderr.print(f"error: {error}", markup=False)
        sys.exit(error.exit_code)


def describe(measured: str, *packages: str) -> dict[str, Any]:
    """Return the head of a results file: what was measured, when, by which command and where.

    Args:
        measured: what is measured, and its unit.
        packages: packages whose versions are added, of those that are installed.
    """
    machine: dict[str, Any] = {**describe_machine(), "instructions": instructions()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            machine["packages"][name] = metadata.version(name)
    if gpu := first_line(
        "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
    ):
        machine["gpu"] = gpu
    return {
        "measured": measured,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "voxtral_onnx": __version__,
        "machine": machine,
    }


def instructions() -> str:
    """Return the widest instruction set for products of 8-bit integers, which sets their speed."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set[str]()
    known = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx2": "AVX2"}
    known |= {"i8mm": "i8mm", "asimddp": "dot products"}
    return next((name for flag, name in known.items() if flag in flags), "unknown")


def read(path: Path) -> dict[str, Any]:
    """Return earlier results, empty where there are none."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, and print the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    stderr.print(f"written: {path}")


def first_line(*command: str) -> str | None:
    """Return the first line that a command prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode().partition("\n")[0]


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, where no earlier call has left memory."""
    # Torch's threads do not survive a fork
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def attempt(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return what a function measures, or its error, so that the next one can still be measured."""
    try:
        return function(*arguments)
    except Exception as error:  # onnxruntime's and PyTorch's own have no narrower base
        return {"error": f"{type(error).__name__}: {error}"}


class Phases:
    """A clock that records seconds, CPU seconds and peak memory of this process by phase.

    Times of a phase that is entered again are added up.
    """

    def __init__(self, first: str):
        """Begin the first phase."""
        self.found: dict[str, dict[str, float]] = {}
        self._name = first
        self._began = perf_counter()
        self._last = (perf_counter(), process_time())

    def enter(self, name: str) -> None:
        """End the current phase and begin another, whose name is printed."""
        if name == self._name:
            return
        self.end()
        self._name = name
        stderr.print(
            f"{self._last[0] - self._began:6.0f} s {peak_memory() / 1e6:6.0f} MB  {name}",
            markup=False,
        )

    def end(self) -> dict[str, dict[str, float]]:
        """End the current phase and return the measures of all phases, by name."""
        now = perf_counter(), process_time()
        phase = self.found.setdefault(self._name, {"seconds": 0.0, "cpu_seconds": 0.0})
        for kind, after, before in zip(("seconds", "cpu_seconds"), now, self._last, strict=True):
            phase[kind] = round(phase[kind] + after - before, 1)
        phase["peak_memory"], self._last = peak_memory(), now
        return self.found


def time_calls(call: Callable[[], Any], calls: int, warm_up: int = 3) -> list[float]:
    """Return the milliseconds of each of many calls.

    Args:
        call: function to time.
        calls: number of timed calls.
        warm_up: number of calls before them, which allocate, capture or compile.
    """
    for _ in range(warm_up):
        call()
    milliseconds = []
    for _ in range(calls):
        began = perf_counter()
        call()
        milliseconds.append(1000 * (perf_counter() - began))
    return milliseconds


def statistics(values: list[float], digits: int = 2) -> dict[str, float]:
    """Return the number of values and their PERCENTILES, minimum and maximum included."""
    found = {
        name: round(float(np.percentile(values, q)), digits) for name, q in PERCENTILES.items()
    }
    return {"count": len(values), **found}


def find_model(name: str, *precisions: str) -> Path:
    """Return the folder of an artifact; for `tiny`, export it in these precisions first."""
    if name != "tiny":
        return find_artifact(name)
    from voxtral_onnx import export  # here, as most artifacts need no torch

    return export("tiny", BUILD / f"tiny-{'-'.join(precisions)}", precisions=precisions)


def find_twin(folder: Path) -> Path:
    """Return the folder of the full-size random checkpoint, and write it first if it is missing."""
    if not (folder / "params.json").exists():
        from twin import write_twin

        in_new_process(write_twin, folder)
    return folder
