"""Fuzz the parsers, as `make fuzz` does; or give one of them one input again.

Usage: PYTHONPATH=tests python -m fuzz [TARGET | TARGET:NUMBER] ... [--inputs N] [--page FILE]
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.mutate import mutant
from fuzz.runner import TARGETS, Tally, module_of, run, table, tally

PART = 5000  # inputs of one process


def main() -> int:
    """Return 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target")
    parser.add_argument("--page", type=Path, help="where the table is written anew")
    options = parser.parse_args()
    single = [name for name in options.targets if ":" in name]
    if single:
        return max(map(again, single))
    tallies: dict[str, Tally] = {name: Tally() for name in options.targets}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(jobs(options.targets, options.inputs))
        for name, found in pool.map(lambda job: (job[0], tally(run(*job))), parts):
            tallies[name].merge(found)
            print(f"{name}: {tallies[name].inputs:,}", file=sys.stderr)
    lines = table(tallies)
    print(lines)
    if options.page:
        before, mark, after = options.page.read_text("utf-8").partition("<!-- fuzz -->\n")
        after = after.partition("<!-- end -->")[2]
        options.page.write_text(f"{before}{mark}{lines}\n<!-- end -->{after}", "utf-8")
    for name, found in tallies.items():
        for kind, outcomes in found.finds.items():
            print(f"\n{name}:{outcomes[0].number}: {kind} ({len(outcomes)})\n{outcomes[0].detail}")
    return int(any(found.finds for found in tallies.values()))


def jobs(targets: list[str], inputs: int) -> Iterator[tuple[str, range]]:
    for start in range(0, inputs, PART):
        for name in targets:
            yield name, range(start, min(start + PART, inputs))


def again(name: str) -> int:
    """Print what becomes of one input, and keep it in build/fuzz."""
    target, _, number = name.partition(":")
    module = module_of(target)
    content = mutant(importlib.import_module(module).seeds(), module, int(number))
    kept = Path("build/fuzz")
    kept.mkdir(parents=True, exist_ok=True)
    (kept / f"{target}-{number}").write_bytes(content)
    (outcome,) = run(target, range(int(number), int(number) + 1))
    print(f"{name} ({len(content):,} bytes in {kept}): {outcome.verdict}\n{outcome.detail}")
    return int(outcome.is_find)


if __name__ == "__main__":
    sys.exit(main())
