"""Many inputs for a parser, in processes of their own, and a table of what became of them.

A target is a module of tests/fuzz/targets: `seeds()` gives good inputs by name, `parse(data,
folder)` reads one and may write it into a folder of its own. It returns, or raises a
VoxtralOnnxError; whatever else happens is a find.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
TARGETS = tuple(sorted(path.stem for path in (HERE / "targets").glob("*.py")))


@dataclass(frozen=True, slots=True)
class Limits:
    """For one input."""

    seconds: float = 10  # of CPU
    idle: float = 60  # seconds of waiting
    memory: int = 512 << 20  # bytes more than good inputs take


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one input."""

    number: int
    verdict: str  # `taken`, `refused`, or what was found
    seconds: float = 0  # of CPU
    memory: int = 0  # bytes of the process above what good inputs take
    detail: str = ""

    @property
    def is_find(self) -> bool:
        return self.verdict not in ("taken", "refused")


@dataclass(slots=True)
class Tally:
    """Of all inputs of a target."""

    inputs: int = 0
    taken: int = 0
    refused: int = 0
    longest: float = 0  # seconds
    memory: int = 0  # bytes
    finds: dict[str, list[Outcome]] = field(default_factory=dict)  # by kind

    def add(self, outcome: Outcome) -> None:
        self.inputs += 1
        self.taken += outcome.verdict == "taken"
        self.refused += outcome.verdict == "refused"
        self.longest = max(self.longest, outcome.seconds)
        self.memory = max(self.memory, outcome.memory)
        if outcome.is_find:
            self.finds.setdefault(outcome.verdict, []).append(outcome)

    def merge(self, other: Tally) -> None:
        for name in ("inputs", "taken", "refused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.memory = max(self.memory, other.memory)
        for kind, outcomes in other.finds.items():
            self.finds.setdefault(kind, []).extend(outcomes)


def run(target: str, numbers: range, limits: Limits | None = None) -> Iterator[Outcome]:
    """Give a target the inputs of these numbers; one that kills the process does not end the run.

    Args:
        target: the name of its module in targets, or the whole name of one elsewhere.
        numbers: of the inputs, one after the other.
        limits: of each; None for the usual ones.

    Raises:
        RuntimeError: the target does not load, or refuses its own seeds.
    """
    limits = limits or Limits()
    module = module_of(target)
    at = numbers.start
    while at < numbers.stop:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as base, tempfile.TemporaryFile() as said:
            (Path(base) / "home").mkdir()
            (Path(base) / "secret").write_text("secret")
            values = (at, numbers.stop, base, limits.seconds, limits.idle, limits.memory)
            process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", module, *map(str, values)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True,
                env=_environment(Path(base)), cwd=base,
            )  # fmt: skip
            assert process.stdout
            try:
                begun = process.stdout.readline() == "begin\n"
                for line in process.stdout:
                    if line.endswith("\n"):  # else it died while it wrote
                        yield Outcome(*json.loads(line))
                        at += 1
                code = process.wait()
            finally:  # also where nobody wants more
                process.kill()
                process.stdout.close()
                process.wait()
            said.seek(0)
            last = said.read().decode("utf-8", "replace")[-3000:]
        if not begun:
            raise RuntimeError(f"{target}: {last}")
        if at < numbers.stop:
            yield Outcome(at, _death(code, limits), detail=last)
            at += 1


def module_of(target: str) -> str:
    """Return the dotted name of a target's module."""
    return target if "." in target else f"fuzz.targets.{target}"


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """Count outcomes."""
    found = Tally()
    for outcome in outcomes:
        found.add(outcome)
    return found


def table(tallies: Mapping[str, Tally]) -> str:
    """Return what was counted of each target, and of all, as Markdown has tables."""
    heads = ("parser", "inputs", "refused", "taken", "finds", "longest, ms", "most memory, MB")
    whole = Tally()
    for found in tallies.values():
        whole.merge(found)
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, found in [*sorted(tallies.items()), ("all", whole)]:
        counts = (found.inputs, found.refused, found.taken, len(found.finds))
        most = (round(1000 * found.longest), round(found.memory / 1e6))
        lines.append(f"| {name} | {' | '.join(f'{value:,}' for value in (*counts, *most))} |")
    return "\n".join(lines)


def _death(code: int, limits: Limits) -> str:
    if code == -signal.SIGPROF:
        return f"takes more than {limits.seconds:g} s"
    if code == -signal.SIGALRM:
        return f"waits for more than {limits.idle:g} s"
    return f"dies of {signal.Signals(-code).name}" if code < 0 else f"exits with {code}"


def _environment(base: Path) -> dict[str, str]:
    """The process finds the tests, has one thread, and keeps what it remembers in its own home."""
    home = str(base / "home")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
        **{"PYTHONPATH": str(HERE.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        **{"HOME": home, "HF_HOME": home, "TMPDIR": home, "OMP_NUM_THREADS": "1"},
    }
