"""Compare hosts on one artifact: load time, time per token, and tokens that differ from Python's.

    python bench/hosts.py ARTIFACT [--name tiny] [--precision q4] [--clip clip.wav]
        [--packages FOLDER]

This package's runtime, OpenVINO (examples/openvino_host.py), onnxruntime-node and transformers.js
transcribe the same clip, each in a process of its own on all cores. transformers.js needs an
artifact with graphs of its family. FOLDER, by default web, has `node_modules` with onnxruntime-node
and @huggingface/transformers. Hosts that are not installed are named and left out.
Writes results/hosts.json, with an entry for each name and precision, and prints the table of
docs/performance.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Annotated, Any

import harness
import soundfile
import typer
from harness import ROOT, stderr

from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.runtime.bench import markdown_table

CLIP = SAMPLES / "date-hibari.wav"
# The graph family that each host needs; None for the native graphs
NODE_HOSTS = {"onnxruntime-node": None, "transformers.js": "transformers_js"}
PACKAGES = {"onnxruntime-node": "onnxruntime-node", "transformers.js": "@huggingface/transformers"}


def run_python(artifact: Path, precision: str, clip: Path) -> dict[str, Any]:
    """Transcribe with this package's runtime, one position a call as the other hosts do."""
    import onnxruntime

    from voxtral_onnx import Transcriber

    began = perf_counter()
    with Transcriber(artifact, precision=precision, device="cpu", blank_guard=False) as transcriber:
        loaded = perf_counter()
        stream, ids, times = transcriber.stream(), [], []
        samples, _ = soundfile.read(clip, dtype="float32")
        for tokens in (stream.iter_feed(samples), stream.iter_finish()):
            for token in tokens:
                ids.append(token.token_id)
                times.append(perf_counter())
    return _result(
        f"voxtral-onnx, onnxruntime {onnxruntime.__version__}", loaded - began, ids, times
    )


def run_openvino(artifact: Path, precision: str, clip: Path) -> dict[str, Any]:
    """Transcribe with the OpenVINO example; compiling its graphs counts as loading."""
    sys.path.insert(0, str(ROOT / "examples"))
    host: Any = import_module("openvino_host")
    samples, _ = soundfile.read(clip, dtype="float32")
    graphs, seconds = {}, 0.0

    def compiled(path: Path):
        nonlocal seconds
        began = perf_counter()
        graphs[path] = original(path)
        seconds += perf_counter() - began
        return graphs[path]

    original, host.compiled = host.compiled, compiled
    ids, times = [], []
    for token in host.transcribe(artifact, precision, samples):
        ids.append(token)
        times.append(perf_counter())
    return _result(f"OpenVINO {host.openvino.__version__.partition('-')[0]}", seconds, ids, times)


def _result(host: str, load_seconds: float, ids: list[int], times: list[float]) -> dict[str, Any]:
    steps = [1000 * (after - before) for before, after in pairwise(times)]  # without the prompt
    run = {"ids": ids, "ms_per_token": mean(steps), "median_ms_per_token": median(steps)}
    return {
        "host": host,
        "load_seconds": load_seconds,
        "peak_memory_bytes": peak_memory(),
        "runs": [run],
    }


def run_node(
    name: str, artifact: Path, precision: str, clip: Path, packages: Path
) -> dict[str, Any]:
    """Transcribe with a host in Node.js, and return the JSON that its script prints.

    Raises:
        RuntimeError: the script fails.
    """
    script = ROOT / "bench" / f"hosts_{name.replace('.', '_').replace('-', '_')}.mjs"
    command = [
        "node",
        "--import",
        str(ROOT / "web" / "packages.mjs"),
        str(script),
        str(artifact),
        precision,
        str(clip),
    ]
    environment = {**os.environ, "PACKAGES": str(packages.absolute())}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(artifact: Path, precision: str, clip: Path, packages: Path) -> list[dict[str, Any]]:
    """Return a row of results for each installed host, Python first."""
    families, found = Manifest.read(artifact).precisions[precision].families, []

    def keep(result: dict[str, Any]) -> None:
        [run] = result.pop("runs")
        ids = run.pop("ids")
        expected = found[0]["ids"] if found else ids
        same = next(
            (i for i, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]),
            len(expected),
        )
        found.append({**result, **run, "tokens": len(expected), "same_tokens": same, "ids": ids})
        stderr.print(f"{result['host']}: {run['ms_per_token']:.1f} ms a token")

    in_process = [run_python, run_openvino] if find_spec("openvino") else [run_python]
    for run in in_process:
        keep(harness.in_new_process(run, artifact, precision, clip))
    for name, family in NODE_HOSTS.items():
        if not (packages / "node_modules" / PACKAGES[name]).exists():
            stderr.print(f"{name}: not in {packages}/node_modules, left out")
        elif family and family not in families:
            stderr.print(f"{name}: the artifact has no family {family}, left out")
        else:
            keep(run_node(name, artifact, precision, clip, packages))
    return [{key: value for key, value in row.items() if key != "ids"} for row in found]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of docs/performance.md, with a row for each host."""
    cells = [
        [
            row["host"],
            f"{row['load_seconds']:.1f}",
            f"{row['ms_per_token']:.0f}"
            if row["ms_per_token"] > 10
            else f"{row['ms_per_token']:.1f}",
            f"{row['peak_memory_bytes'] / 1e9:.1f}",
            f"{row['same_tokens']} of {row['tokens']}",
        ]
        for row in rows
    ]
    return markdown_table(["Host", "Load s", "ms a token", "Peak GB", "Tokens as Python's"], cells)


def main(
    artifact: Path,
    name: Annotated[str, typer.Option(help="Name of the results entry.")] = "tiny",
    precision: str = "q4",
    clip: Annotated[Path, typer.Option(help="Mono, 16 bits, at the model's rate.")] = CLIP,
    packages: Annotated[Path, typer.Option(help="Folder with node_modules.")] = ROOT / "web",
    out: harness.Out = harness.RESULTS / "hosts.json",
) -> None:
    """Transcribe a clip in every host that is installed."""
    found = harness.describe("a clip in several hosts, a position a call")
    found |= {"audio_seconds": round(soundfile.info(clip).duration, 2)}
    found["hosts"] = measure(artifact, precision, clip, packages)
    harness.write(out, harness.read(out) | {f"{name} {precision}": found})
    print(table(found["hosts"]))


if __name__ == "__main__":
    harness.run(main)
