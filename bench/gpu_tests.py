"""Run the tests that need a CUDA device, and write their outcomes to results/gpu.json.

The file also has the date, the machine and the commit.

    make test-gpu
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import harness
import pytest


class Outcomes:
    """A pytest plugin that collects the outcome of each test."""

    def __init__(self):
        self.outcomes: dict[str, str] = {}
        self.reasons: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a test's call, or of the setup or teardown that failed."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons.add(report.longrepr[2])


def main() -> int:
    """Run the tests and return pytest's exit code; if no test ran, write no results."""
    seen = Outcomes()
    os.chdir(harness.ROOT)
    code = pytest.main(["-m", "gpu", *sys.argv[1:]], plugins=[seen])
    counts = Counter(seen.outcomes.values())
    if not counts["passed"] and not counts["failed"]:
        print(f"nothing ran: {'; '.join(sorted(seen.reasons)) or 'no test was found'}")
        return int(code)
    summary = {
        **harness.describe("how the tests ended that need a CUDA device"),
        "commit": os.environ.get("COMMIT")
        or harness.first_line("git", "rev-parse", "--short", "HEAD"),
        "counts": dict(sorted(counts.items())),
        "tests": dict(sorted(seen.outcomes.items())),
    }
    harness.write(harness.RESULTS / "gpu.json", summary)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
