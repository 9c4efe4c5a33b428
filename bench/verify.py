"""Time and memory of `verify` at full size, and how far the stages of the 4B model's graphs are from their modules.

    python bench/twin.py build/twin && voxtral-onnx export build/twin -o build/twin-onnx
    python bench/verify.py build/twin-onnx build/twin

Climbs rungs 0 to 4, as the random twin writes no words, prints the findings and writes results/verify.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter, process_time

from voxtral_onnx import __version__
from voxtral_onnx.errors import VerificationError
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.runtime.bench import describe_machine
from voxtral_onnx.verify.ladder import verify

RESULTS = Path(__file__).parent / "results" / "verify.json"
RUNGS = (0, 1, 2, 3, 4)


def main() -> None:
    """Verify, print, write."""
    parser = argparse.ArgumentParser(description="Time and memory of `verify` at full size.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("checkpoint", type=Path)
    arguments = parser.parse_args()
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
        certificate = verify(arguments.artifact, checkpoint=arguments.checkpoint, rungs=RUNGS, on_progress=enter)
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
