"""Run the tests that need a CUDA device and write what they said to results/gpu.json, with the date and the commit.

make test-gpu
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from voxtral_onnx import __version__
from voxtral_onnx.runtime.bench import describe_machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "gpu.json"


class Outcomes:
    """Collects how each test ended."""

    def __init__(self):
        self.outcomes: dict[str, str] = {}
        self.reasons: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of three phases, the call, or the one that went wrong before it."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons.add(report.longrepr[2])


def first_line(*command: str) -> str | None:
    """What a command says, None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode().partition("\n")[0]


def main() -> int:
    """Exit code of pytest; without a CUDA device nothing is written."""
    seen = Outcomes()
    os.chdir(ROOT)
    code = pytest.main(["-m", "gpu", *sys.argv[1:]], plugins=[seen])
    counts = Counter(seen.outcomes.values())
    if not counts["passed"] and not counts["failed"]:
        print(f"nothing ran: {'; '.join(sorted(seen.reasons)) or 'no test was found'}")
        return int(code)
    summary = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": os.environ.get("COMMIT") or first_line("git", "rev-parse", "--short", "HEAD"),
        "voxtral_onnx": __version__,
        "gpu": first_line("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        "machine": describe_machine(),
        "counts": dict(sorted(counts.items())),
        "tests": dict(sorted(seen.outcomes.items())),
    }
    RESULTS.write_text(json.dumps(summary, indent=1) + "\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
