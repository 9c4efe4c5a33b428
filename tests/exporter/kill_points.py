"""Exports killed at drawn events.

Each runs in a process forked from one that has the graphs traced already.

    python tests/exporter/kill_points.py CHECKPOINT FOLDER TRACES SEED POINTS

Prints one JSON object for each point: what stood in the folder after the kill, and what the next
export made of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from support.traces import Traces

from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.exporter import export as exporter
from voxtral_onnx.exporter.output import UNFINISHED
from voxtral_onnx.exporter.plan import plan_export
from voxtral_onnx.manifest import FILE_NAME, Manifest

EVENTS = [
    (os, "open"),
    (os, "pwrite"),
    (os, "fsync"),
    (Path, "open"),
    (Path, "replace"),
    (Path, "unlink"),
]
EVENTS += [(Path, "mkdir")]
# What stands before, what is exported
SCENARIOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fresh": ({}, {"precisions": ("q4", "fp32")}),
    "added": ({"precisions": ("fp32",)}, {"precisions": ("q4",)}),
    "renewed": ({"precisions": ("q4", "fp32")}, {"precisions": ("q4",), "recipe": "q8"}),
    "all renewed": ({"precisions": ("q4",)}, {"precisions": ("q4",), "shard_size": 1 << 20}),
    "family added": (
        {"precisions": ("q4",)},
        {"precisions": ("q4",), "families": ("transformers_js",)},
    ),
}


def main(checkpoint: Path, folder: Path, traces: Path, seed: int, points: int) -> None:
    torch.set_num_threads(1)
    traced, trace = {}, Traces(traces)
    for _, asked in SCENARIOS.values():
        plan = plan_export(checkpoint, folder / "nowhere", **asked)
        for graph in plan.graphs:
            if (key := (graph.plan.graph_file, graph.recipe.name)) not in traced:
                traced[key] = trace(graph.plan_of, plan.checkpoint.config)
    num_traced = []

    def remembered(plan_of, config):
        plan = plan_of(config)
        num_traced.append(plan.graph_file)
        return traced[plan.graph_file, plan_of.keywords["build"].recipe.name]

    exporter.trace = remembered
    draw = random.Random(seed)
    for number, (name, (before, asked)) in enumerate(SCENARIOS.items()):
        start, whole = folder / f"{number}-start", folder / f"{number}-whole"
        if before:
            fork(lambda: exporter.export(checkpoint, start, **before))  # noqa: B023
            shutil.copytree(start, whole)
        counted = folder / f"{number}-events"
        fork(lambda: counted.write_text(str(export_and_count(checkpoint, whole, asked))))  # noqa: B023
        for event in draw.sample(range(int(counted.read_text())), points // len(SCENARIOS)):
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            if before:
                shutil.copytree(start, out)
            status = fork(lambda: export_and_count(checkpoint, out, asked, event))  # noqa: B023
            result = {
                "scenario": name,
                "event": event,
                "killed": os.WTERMSIG(status) == signal.SIGKILL,
            }
            result["manifest"] = describe(out, start, whole)
            record = (
                json.loads(recorded.read_text()) if (recorded := out / UNFINISHED).exists() else {}
            )
            finished = record.get("finished", {})
            times = {
                file: (out / file).stat().st_mtime_ns
                for graph in finished.values()
                for file in graph["files"]
            }

            def again(asked=asked, out=out):
                exporter.export(checkpoint, out, **asked)
                (folder / "traced").write_text(json.dumps(num_traced))

            result["rerun"] = fork(again)
            result["finished"] = sorted(finished)
            result["traced"] = json.loads((folder / "traced").read_text())
            result["untouched"] = all(
                (out / file).stat().st_mtime_ns == time for file, time in times.items()
            )
            result["equal"] = hashes(out) == hashes(whole)
            print(json.dumps(result))


def export_and_count(checkpoint: Path, out: Path, asked: dict, kill_at: int = -1) -> int:
    """Export, and count the steps that change the folder.

    Before that of number `kill_at` the process ends.
    """
    count = 0

    def counting(function):
        @wraps(function)
        def counted(*arguments, **options):
            nonlocal count
            if count == kill_at:
                if function is pwrite:
                    pwrite(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return function(*arguments, **options)

        return counted

    pwrite = os.pwrite
    for owner, name in EVENTS:
        setattr(owner, name, counting(getattr(owner, name)))
    exporter.export(checkpoint, out, **asked)
    return count


def describe(out: Path, start: Path, whole: Path) -> str:
    """Which manifest stands, if every file has its hash."""
    if not (out / FILE_NAME).exists():
        return "none"
    manifest = Manifest.read(out)
    try:
        manifest.check_files(out, hashes=True)
    except ArtifactError as error:
        return f"invalid: {error}"
    for name, folder in (("old", start), ("new", whole)):
        if folder.exists() and manifest == Manifest.read(folder):
            return name
    return "kept " + ",".join(manifest.precisions)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fork(action) -> int:
    """Run an action in a forked process; its wait status."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1]


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    )
