"""Time and memory of `verify` at full size, and how far the stages of the 4B model's graphs are from their modules.

    python bench/twin.py build/twin
    python bench/verify.py [--twin build/twin] [--artifact FOLDER] [--profile-only]

Climbs rungs 0 to 4, as the random twin writes no words, prints the findings and writes results/verify.json, with what
one stage of each graph takes. Without an artifact the twin is exported first, and what was written deleted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from full_size import in_new_process

from voxtral_onnx import __version__, export
from voxtral_onnx.errors import VerificationError
from voxtral_onnx.manifest import CacheSpec, Manifest
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.runtime.bench import describe_machine
from voxtral_onnx.verify.ladder import verify
from voxtral_onnx.verify.probe import CHUNKS, draw, expected_of, run, worst_error
from voxtral_onnx.verify.reference import ArtifactModel
from voxtral_onnx.verify.stages import StagedGraph

RESULTS = Path(__file__).parent / "results" / "verify.json"
RUNGS = (0, 1, 2, 3, 4)


def main() -> None:
    """Export where nothing is there, and measure."""
    parser = argparse.ArgumentParser(description="Time and memory of `verify` at full size.")
    parser.add_argument("--twin", type=Path, default=Path("build/twin"))
    parser.add_argument("--artifact", type=Path, help="of the twin, in q4f16 alone; gets a certificate")
    parser.add_argument("--profile-only", action="store_true", help="keep the rest of the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.twin.parent) as scratch:
        artifact = arguments.artifact or in_new_process(export, arguments.twin, Path(scratch) / "twin")
        results = json.loads(RESULTS.read_text()) if arguments.profile_only else measure(artifact, arguments.twin)
        results["profile"] = in_new_process(profile, artifact)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def measure(artifact: Path, twin: Path) -> dict[str, Any]:
    """Verify and print."""
    machine, phases = describe_machine(), []
    began, last = perf_counter(), (perf_counter(), process_time())

    def enter(phase: str) -> None:
        nonlocal last
        now = perf_counter(), process_time()
        if phases:
            phases[-1]["seconds"] += round(now[0] - last[0], 1)
            phases[-1]["cpu_seconds"] += round(now[1] - last[1], 1)
            phases[-1]["peak_memory"] = peak_memory()
        last = now
        name = "stages" if "stage" in phase else phase
        if not phases or phases[-1]["phase"] != name:
            phases.append({"phase": name, "seconds": 0.0, "cpu_seconds": 0.0, "peak_memory": 0})
            print(f"{now[0] - began:6.0f} s  {name}", flush=True)

    try:
        certificate = verify(artifact, checkpoint=twin, rungs=RUNGS, on_progress=enter)
    except VerificationError as error:
        certificate = error.report
    enter("end")
    results = {
        "measured": "rungs 0 to 4 of a random twin of the 4B model: seconds and memory of this process by phase",
        "voxtral_onnx": __version__,
        "machine": machine,
        "verdict": certificate.verdict,
        "seconds": certificate.seconds,
        "cpu_seconds": round(process_time(), 1),
        "peak_memory": peak_memory(),
        "phases": phases[:-1],
        "findings": [[f.rung, f.precision, f.check, f.status, f.summary] for f in certificate.findings],
    }
    for finding in certificate.findings:
        print(f"{finding.rung}  {finding.check:34} {finding.status:10} {finding.summary}")
    print(f"{certificate.verdict}: {certificate.seconds:.0f} s, {peak_memory() / 1e9:.2f} GB at most")
    return results


def profile(artifact: Path) -> dict[str, dict[str, float]]:
    """CPU seconds of what `probe` does with a layer in the middle of each graph, PyTorch on one thread."""
    torch.set_num_threads(1)
    manifest = Manifest.read(artifact)
    (precision,) = manifest.precisions
    model = ArtifactModel(artifact, manifest, precision)
    return {
        graph.layers[2]: profile_stage(model, graph, manifest.caches[role], manifest.config.decoder.vocab_size)
        for role, graph in (("encoder", model.encoder), ("decoder", model.decoder))
    }


def profile_stage(model: ArtifactModel, graph: StagedGraph, spec: CacheSpec, vocab_size: int) -> dict[str, float]:
    """CPU seconds by part; the calls are those of `probe`, from an empty cache and from a full window."""
    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        began = process_time()
        made = function(*arguments, **options)
        seconds[part] += process_time() - began
        return made

    stage, rng = graph.layers[2], np.random.default_rng(0)
    exact = timed("load the stage to run exactly", graph.load, stage, exact=True)
    compute = timed("dequantise the module", model.computation, stage)
    shipped = timed("load the stage as shipped", graph.load, stage, exact=False)
    for start, what in ((0, "empty cache"), (spec.capacity - CHUNKS[0] * spec.rows_per_token, "full window")):
        case = timed(f"{what}: inputs and module", draw, exact, compute, spec, start, vocab_size, rng)
        for session, chunks in ((exact, case.one_call), (exact, CHUNKS), (shipped, case.one_call)):
            made = timed(f"{what}: graph", run, session, spec, case, chunks)
            wanted = expected_of(session, spec, case, sum(chunks))
            timed(f"{what}: errors", worst_error, made, wanted)
    return {part: round(value, 2) for part, value in seconds.items()}


if __name__ == "__main__":
    main()
