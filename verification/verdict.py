"""The verdict on an artifact, derived from the findings of all checks, rung by rung.

A rung has passed if every check of every named precision was run, judged and passed. Whatever was
not run or not judged is open, and is listed wherever the verdict is shown.
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
    """The result of one check of one rung."""

    rung: Rung
    check: Name
    precision: Role | None  # None for a check of the whole artifact
    status: Status
    summary: str  # has the measured number; a failure names the stage or tensor


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on all findings of an artifact, and what it is based on."""

    verdict: Verdict
    precisions: tuple[str, ...]  # the precisions that it is about
    passed_rungs: tuple[int, ...]
    left_open: tuple[str, ...]  # sentences: what was not run or not judged, and why
    failed: tuple[str, ...] = ()  # "q4 on rung 6", for each precision of which a check failed

    @property
    def stamp(self) -> str:
        """Return the verdict in capital letters, as people see it."""
        if self.verdict == PARTLY_PASSED:
            return f"PARTLY VERIFIED ({len(self.passed_rungs)} of {len(ALL_RUNGS)})"
        return {PASSED: "VERIFIED", FAILED: "FAILED", NOT_JUDGED: "NOT JUDGED"}[self.verdict]

    @property
    def scope(self) -> str:
        """Return in words which precisions passed which rungs: q4f16 on rungs 0, 1, 2.

        A failure is named first: q4 on rung 6; passed: rungs 0, 1, 2, 3, 4, 5.
        """
        rungs = _listed(self.passed_rungs) if self.passed_rungs else "no rung"
        if self.failed:
            return f"{', '.join(self.failed)}; passed: {rungs}"
        return f"{', '.join(self.precisions)} on {rungs}"


@dataclass(frozen=True, slots=True)
class _Gap:
    """A part of a rung that was not run or not judged."""

    rung: int
    precision: str | None
    check: str  # empty unless other checks of that rung and precision passed
    status: Status
    why: str


def judge(
    findings: Sequence[Finding],
    precisions: Iterable[str],
    *,
    asked: Iterable[int] = ALL_RUNGS,
    left_out: Iterable[str] = (),
) -> Judgement:
    """Return the verdict on findings.

    Args:
        findings: the results of all checks.
        precisions: the precisions that were to be checked.
        asked: the requested rungs; they decide only how the others are explained.
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
        verdict = NOT_JUDGED  # rung 0, the hashes, says nothing about what a model computes
    else:
        verdict = PARTLY_PASSED if left_open else PASSED
    failed = tuple(_failures(findings, tuple(names)))
    return Judgement(verdict, tuple(names), passed, tuple(left_open), failed)


def name_rungs(numbers: Sequence[int]) -> str:
    """Return rungs in words: "rung 2", or "rungs 2, 5 and 6"."""
    *first, last = map(str, numbers)
    return f"rungs {', '.join(first)} and {last}" if first else f"rung {last}"


def _listed(numbers: Sequence[int]) -> str:
    return f"rung{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _failures(findings: Sequence[Finding], names: tuple[str, ...]) -> Iterator[str]:
    """Yield for each precision the rungs that it failed, those of the whole artifact first."""
    failed: dict[str, set[int]] = {}
    for row in findings:
        if row.status == FAILED:
            failed.setdefault(row.precision or ", ".join(names), set()).add(row.rung)
    for name, rungs in failed.items():
        yield f"{name} on {_listed(sorted(rungs))}"


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
    """Yield a sentence for each reason why something is open, with all that it holds for."""
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
