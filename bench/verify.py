"""Time and memory of `verify` at full size, and how far the stages of the 4B model's graphs are from their modules.

    python bench/twin.py build/twin
    python bench/verify.py [--twin build/twin] [--artifact FOLDER]

Climbs rungs 0 to 4, as the random twin writes no words, prints the findings and writes results/verify.json. Without an
artifact the twin is exported first, and what was written deleted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from full_size import in_new_process

from voxtral_onnx import __version__, export
from voxtral_onnx.errors import VerificationError
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.runtime.bench import describe_machine
from voxtral_onnx.verify.ladder import verify

RESULTS = Path(__file__).parent / "results" / "verify.json"
RUNGS = (0, 1, 2, 3, 4)


def main() -> None:
    """Export where nothing is there, and measure."""
    parser = argparse.ArgumentParser(description="Time and memory of `verify` at full size.")
    parser.add_argument("--twin", type=Path, default=Path("build/twin"))
    parser.add_argument("--artifact", type=Path, help="of the twin, in q4f16 alone; gets a certificate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.twin.parent) as scratch:
        artifact = arguments.artifact or in_new_process(export, arguments.twin, Path(scratch) / "twin")
        measure(artifact, arguments.twin)


def measure(artifact: Path, twin: Path) -> None:
    """Verify, print, write."""
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
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
