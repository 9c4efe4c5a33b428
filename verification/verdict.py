"""The verdict on an artifact, derived from the findings of all checks, rung by rung.

A rung has passed if every check of every named precision was run, judged and passed. Whatever was
not run or not judged is open, and is listed wherever the verdict is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
    lacks: tuple[Name, ...] = ()  # packages for want of which it was not run


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on all findings of an artifact, and what it is based on."""

    verdict: Verdict
    precisions: tuple[str, ...]  # the precisions that it is about
    passed_rungs: tuple[int, ...]
    left_open: tuple[str, ...]  # sentences: what was not run or not judged, and why
    failed: tuple[str, ...] = ()  # "q4 on rung 6", for each precision of which a check failed
    partial_rungs: tuple[int, ...] = ()  # others of which every precision passed some checks
    nothing: str = ""  # "rung 1 did not run", where nothing but files was judged

    @property
    def stamp(self) -> str:
        """Return the verdict in capital letters, as people see it."""
        if self.verdict == PARTLY_PASSED:
            return f"PARTLY VERIFIED ({len(self.passed_rungs)} of {len(ALL_RUNGS)})"
        return {PASSED: "VERIFIED", FAILED: "FAILED", NOT_JUDGED: "NOT JUDGED"}[self.verdict]

    @property
    def scope(self) -> str:
        """Return in words which precisions passed which rungs: q4f16 on rungs 0, 1, 2.

        Rungs of which only a part was run come last: q4f16 on rung 0 and parts of rungs 3, 4. A
        failure is named first: q4 on rung 6; passed: rungs 0, 1, 2, 3, 4, 5. Where nothing was
        judged, it is what was asked for: rung 1 did not run, only the files were hashed.
        """
        if self.verdict == NOT_JUDGED:
            return ", ".join([*filter(None, [self.nothing]), "only the files were hashed"])
        whole = [_listed(self.passed_rungs)] if self.passed_rungs else []
        parts = [f"parts of {_listed(self.partial_rungs)}"] if self.partial_rungs else []
        rungs = " and ".join([*whole, *parts]) or "no rung"
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
    return Judgement(
        verdict,
        tuple(names),
        passed,
        tuple(left_open),
        tuple(_failures(findings, tuple(names))),
        tuple(rung for rung in ALL_RUNGS if _is_partial(rung, findings, tuple(names))),
        _nothing(findings, sorted({*asked} - {0})) if verdict == NOT_JUDGED else "",
    )


def explain(findings: Sequence[Finding], precisions: Sequence[str], rungs: set[int]) -> list[str]:
    """Return sentences on what of some rungs was not run or not judged, and why."""
    gaps = _gaps(findings, tuple(precisions), rungs)
    return [*_sentences((gap for gap in gaps if gap.rung in rungs), tuple(precisions))]


def merge_unrun(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings to show: one for all of a rung that was not run for want of packages."""
    rows: list[Finding] = []
    for finding in findings:
        same = (rows.index(row) for row in rows if row.lacks and row.rung == finding.rung)
        at = next(same, None) if finding.lacks else None
        if at is None:
            rows.append(finding)
            continue
        row = rows[at]
        rows[at] = replace(
            row,
            check=", ".join(dict.fromkeys([*row.check.split(", "), finding.check])),
            precision=row.precision if row.precision == finding.precision else None,
            lacks=tuple(dict.fromkeys([*row.lacks, *finding.lacks])),
        )
    return sorted(rows, key=lambda row: (row.rung, bool(row.lacks)))


def name_rungs(numbers: Sequence[int]) -> str:
    """Return rungs in words: "rung 2", or "rungs 2, 5 and 6"."""
    *first, last = map(str, numbers)
    return f"rungs {', '.join(first)} and {last}" if first else f"rung {last}"


def _listed(numbers: Sequence[int]) -> str:
    return f"rung{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _nothing(findings: Sequence[Finding], asked: Sequence[int]) -> str:
    """Return in words that the rungs that were asked for gave no result."""
    if not asked:
        return ""
    if any(row.status == NOT_JUDGED for row in findings):
        return f"nothing of {name_rungs(asked)} could be judged"
    return f"{name_rungs(asked)} did not run"


def _is_partial(rung: int, findings: Sequence[Finding], names: tuple[str, ...]) -> bool:
    """Return whether a rung passed in part: some checks of every precision, but not all."""
    rows = [row for row in findings if row.rung == rung]
    passed = {row.precision for row in rows if row.status == PASSED}
    statuses = {row.status for row in rows} - {PASSED}
    return bool(passed) and passed >= {*names} and bool(statuses) and FAILED not in statuses


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
    checks: dict[tuple[int, str, Status, str], list[str]] = {}
    for (rung, check, status, why), of in precisions.items():
        whose = "" if None in of or of.keys() == set(names) else f" of {', '.join(map(str, of))}"
        checks.setdefault((rung, whose, status, why), []).append(check)
    rungs: dict[tuple[str, str, Status, str], list[int]] = {}
    for (rung, whose, status, why), parts in checks.items():
        check = "" if "" in parts else ", ".join(parts)
        rungs.setdefault((whose, check, status, why), []).append(rung)
    for (whose, check, status, why), numbers in rungs.items():
        part = f", {check}" if check else ""
        yield f"{name_rungs(numbers)}{whose}{part}: {status} ({why})"
