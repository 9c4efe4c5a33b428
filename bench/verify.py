"""Measure time and memory of `verify` on a full-size artifact, and the errors that it finds.

    python bench/verify.py [--twin build/twin] [--artifact FOLDER] [--profile-only]

Runs rungs 0 to 4; the others need words, which a model of random weights does not write. Prints the
findings and writes them to results/verify.json, with the CPU time of the check of one layer of each
graph, by its parts. Without --artifact the twin is exported first, and deleted in the end.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import harness
import numpy as np
import torch
import typer

from voxtral_onnx import export
from voxtral_onnx.errors import VerificationError
from voxtral_onnx.manifest import CacheSpec, Manifest
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.verification.artifact_model import ArtifactModel
from voxtral_onnx.verification.stage_parity import CHUNKS, draw, expected_of, run, worst_error
from voxtral_onnx.verification.subgraphs import ArtifactGraphs, StagedGraph
from voxtral_onnx.verification.verify import verify

RUNGS = (0, 1, 2, 3, 4)


def main(
    twin: harness.Twin = harness.TWIN,
    artifact: Annotated[
        Path | None,
        typer.Option(
            help="Artifact of the twin in q4f16 alone; verify writes its certificate.",
            show_default="exported",
        ),
    ] = None,
    profile_only: Annotated[
        bool, typer.Option("--profile-only", help="Measure the profile, keep other results.")
    ] = False,
    out: harness.Out = harness.RESULTS / "verify.json",
) -> None:
    """Measure `verify`, after exporting the twin where no artifact is given."""
    harness.find_twin(twin)
    with tempfile.TemporaryDirectory(dir=twin.parent) as scratch:
        folder = artifact or harness.in_new_process(export, twin, Path(scratch) / "twin")
        results = harness.read(out) if profile_only else measure(folder, twin)
        results["profile"] = harness.in_new_process(profile, folder)
    harness.write(out, results)


def measure(artifact: Path, twin: Path) -> dict[str, Any]:
    """Verify the artifact, print the findings and return the measures."""
    # Verify, with the phases of all stages together
    results = harness.describe(
        "rungs 0 to 4 of a random twin of the 4B model: seconds and memory by phase"
    )
    phases = harness.Phases("start")

    def enter(phase: str) -> None:
        phases.enter("stages" if "stage" in phase else phase)

    try:
        certificate = verify(artifact, checkpoint=twin, rungs=RUNGS, on_progress=enter)
    except VerificationError as error:
        certificate = error.report

    # Collect and print
    results |= {
        "verdict": certificate.verdict,
        "seconds": certificate.seconds,
        "cpu_seconds": round(process_time(), 1),
        "peak_memory": peak_memory(),
        "phases": phases.end(),
        "findings": [
            [f.rung, f.precision, f.check, f.status, f.summary] for f in certificate.findings
        ],
    }
    for finding in certificate.findings:
        print(f"{finding.rung}  {finding.check:34} {finding.status:10} {finding.summary}")
    print(
        f"{certificate.verdict}: {certificate.seconds:.0f} s, {peak_memory() / 1e9:.2f} GB at most"
    )
    return results


def profile(artifact: Path) -> dict[str, dict[str, float]]:
    """Return the CPU seconds of checking one layer of each graph, by the parts of the check.

    PyTorch runs on one thread.
    """
    torch.set_num_threads(1)
    manifest = Manifest.read(artifact)
    (precision,) = manifest.precisions
    model = ArtifactModel(
        ArtifactGraphs(artifact, manifest, precision), manifest.streaming.default_delay_tokens
    )
    return {
        graph.layers[2]: profile_stage(
            model, graph, manifest.caches[role], manifest.config.decoder.vocab_size
        )
        for role, graph in (("encoder", model.encoder), ("decoder", model.decoder))
    }


def profile_stage(
    model: ArtifactModel, graph: StagedGraph, spec: CacheSpec, vocab_size: int
) -> dict[str, float]:
    """Return the CPU seconds of the check of one layer, by the parts of the check.

    The calls are those of stage_parity.py, with an empty cache and with a full window.
    """
    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        began = process_time()
        made = function(*arguments, **options)
        seconds[part] += process_time() - began
        return made

    # Load the stage twice, and its module
    stage, rng = graph.layers[2], np.random.default_rng(0)
    exact = timed("load the stage to run exactly", graph.load, stage, exact=True)
    compute = timed("dequantise the module", model.computation, stage)
    shipped = timed("load the stage as shipped", graph.load, stage, exact=False)

    # Run them
    for start, what in (
        (0, "empty cache"),
        (spec.capacity - CHUNKS[0] * spec.rows_per_token, "full window"),
    ):
        case = timed(
            f"{what}: inputs and module", draw, exact, compute, spec, start, vocab_size, rng
        )
        for session, chunks in ((exact, case.one_call), (exact, CHUNKS), (shipped, case.one_call)):
            made = timed(f"{what}: graph", run, session, spec, case, chunks)
            wanted = expected_of(session, spec, case, sum(chunks))
            timed(f"{what}: errors", worst_error, made, wanted)
    return {part: round(value, 2) for part, value in seconds.items()}


if __name__ == "__main__":
    harness.run(main)
