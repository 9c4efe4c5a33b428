"""The verdict: what findings add up to, rung by rung, and what they leave open.

A rung has passed where every check of every precision that is named has: whatever did not run or
was not judged stays open, and is said wherever the verdict is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from ..decode import Name
from ..manifest import Role

ALL_RUNGS = (0, 1, 2, 3, 4, 5, 6)
Rung = Annotated[int, Meta(ge=0, le=6)]
Status = Literal["passed", "failed", "not judged", "not run"]
PASSED: Literal["passed"] = "passed"
FAILED: Literal["failed"] = "failed"
NOT_JUDGED: Literal["not judged"] = "not judged"
NOT_RUN: Literal["not run"] = "not run"
PARTLY_PASSED: Literal["partly passed"] = "partly passed"
Verdict = Literal["passed", "partly passed", "failed", "not judged"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of one rung says, of one precision or of the whole artifact."""

    rung: Rung
    check: Name
    precision: Role | None
    status: Status
    summary: str  # with the measured number; a failure names the stage or tensor


@dataclass(frozen=True, slots=True)
class Judgement:
    """What all findings of an artifact add up to."""

    verdict: Verdict
    precisions: tuple[str, ...]  # of which it is
    passed_rungs: tuple[int, ...]
    left_open: tuple[str, ...]  # what did not run or was not judged, and why

    @property
    def stamp(self) -> str:
        """The verdict in capitals, for people."""
        if self.verdict == PARTLY_PASSED:
            return f"PARTLY VERIFIED ({len(self.passed_rungs)} of {len(ALL_RUNGS)})"
        return {PASSED: "VERIFIED", FAILED: "FAILED", NOT_JUDGED: "NOT JUDGED"}[self.verdict]

    @property
    def scope(self) -> str:
        """Return which precisions passed which rungs."""
        numbers = ", ".join(map(str, self.passed_rungs))
        rungs = f"rung{'s' * (len(self.passed_rungs) > 1)} {numbers}" if numbers else "no rung"
        return f"{', '.join(self.precisions)} on {rungs}"


@dataclass(frozen=True, slots=True)
class _Gap:
    """Something of a rung that did not run or was not judged."""

    rung: int
    precision: str | None
    check: str  # where others of that rung and precision passed, else empty
    status: Status
    why: str


def judge(
    findings: Sequence[Finding],
    precisions: Iterable[str],
    *,
    asked: Iterable[int] = ALL_RUNGS,
    left_out: Iterable[str] = (),
) -> Judgement:
    """Add up what was found.

    Args:
        findings: all of them.
        precisions: that were to be checked.
        asked: the rungs that were to run; it decides only how others are explained.
        left_out: the artifact's other precisions.
    """
    names = dict.fromkeys([*precisions, *(row.precision for row in findings if row.precision)])
    gaps = list(_gaps(findings, tuple(names), set(asked)))
    unfinished = {row.rung for row in findings if row.status == FAILED} | {gap.rung for gap in gaps}
    passed = tuple(rung for rung in ALL_RUNGS if rung not in unfinished)
    left_open = [*_sentences(gaps, tuple(names))]
    left_open += [f"{name}: not verified" for name in left_out]
    if any(row.status == FAILED for row in findings):
        verdict: Verdict = FAILED
    elif not any(row.status == PASSED and row.rung for row in findings):
        verdict = NOT_JUDGED  # hashes say nothing of what a model computes
    else:
        verdict = PARTLY_PASSED if left_open else PASSED
    return Judgement(verdict, tuple(names), passed, tuple(left_open))


def name_rungs(numbers: Sequence[int]) -> str:
    """Return some rungs in words: rungs 2, 5 and 6."""
    *first, last = map(str, numbers)
    return f"rungs {', '.join(first)} and {last}" if first else f"rung {last}"


def _gaps(findings: Sequence[Finding], names: tuple[str, ...], asked: set[int]) -> Iterator[_Gap]:
    for rung in ALL_RUNGS:
        rows = [row for row in findings if row.rung == rung]
        if not rows:
            why = "nothing is said of it" if rung in asked else "not asked for"
            yield _Gap(rung, None, "", NOT_RUN, why)
            continue
        of_all = [row for row in rows if row.precision is None]
        for name in names:
            if not of_all and not any(row.precision == name for row in rows):
                yield _Gap(rung, name, "", NOT_RUN, "nothing is said of it")
        for row in rows:
            if row.status in (NOT_RUN, NOT_JUDGED):
                beside = (other for other in rows if other.precision == row.precision)
                is_part = any(other.status == PASSED for other in beside)
                check = row.check if is_part else ""
                yield _Gap(rung, row.precision, check, row.status, row.summary)


def _sentences(gaps: Iterable[_Gap], names: tuple[str, ...]) -> Iterator[str]:
    """Say what is open, each reason once."""
    precisions: dict[tuple[int, str, Status, str], dict[str | None, None]] = {}
    for gap in gaps:
        of = precisions.setdefault((gap.rung, gap.check, gap.status, gap.why), {})
        of[gap.precision] = None
    rungs: dict[tuple[str, str, Status, str], list[int]] = {}
    for (rung, check, status, why), of in precisions.items():
        whose = "" if None in of or of.keys() == set(names) else f" of {', '.join(map(str, of))}"
        rungs.setdefault((whose, check, status, why), []).append(rung)
    for (whose, check, status, why), numbers in rungs.items():
        part = f", {check}" if check else ""
        yield f"{name_rungs(numbers)}{whose}{part}: {status} ({why})"
