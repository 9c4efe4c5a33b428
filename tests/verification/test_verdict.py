"""A verdict never says more than ran."""

from __future__ import annotations

import pytest

from voxtral_onnx.verification.verdict import (
    ALL_RUNGS,
    Finding,
    explain,
    judge,
    merge_unrun,
    name_rungs,
)

BOTH = ("q4f16", "q4")


def findings(*precisions: str, rungs=ALL_RUNGS) -> list[Finding]:
    """Return what passed: rungs 0 and 2 for all, two checks of the others for each precision."""
    found = [Finding(rung, "all", None, "passed", "") for rung in rungs if rung in (0, 2)]
    for rung in rungs:
        if rung not in (0, 2):
            found += [
                Finding(rung, check, name, "passed", "") for name in precisions for check in "ab"
            ]
    return found


def change(found, rung, status, *, precision=None, check=None, why="w"):
    """Return findings of which some have another status."""
    return [
        Finding(row.rung, row.check, row.precision, status, why)
        if row.rung == rung and precision in (None, row.precision) and check in (None, row.check)
        else row
        for row in found
    ]


def test_all_of_all_rungs_is_verified():
    found = judge(findings(*BOTH), BOTH)
    assert (found.verdict, found.stamp, found.left_open) == ("passed", "VERIFIED", ())
    assert found.passed_rungs == ALL_RUNGS
    assert found.scope == "q4f16, q4 on rungs 0, 1, 2, 3, 4, 5, 6"


@pytest.mark.parametrize("rung", ALL_RUNGS)
@pytest.mark.parametrize("status", ["not run", "not judged"])
def test_a_rung_that_did_not_run_is_no_passed_one(rung, status):
    found = judge(change(findings(*BOTH), rung, status, why="gone"), BOTH)
    assert found.verdict == "partly passed"
    assert found.stamp == "PARTLY VERIFIED (6 of 7)"
    assert found.passed_rungs == tuple(set(ALL_RUNGS) - {rung})
    assert found.left_open == (f"rung {rung}: {status} (gone)",)


@pytest.mark.parametrize("rung", ALL_RUNGS)
def test_a_rung_of_which_nothing_is_said_is_no_passed_one(rung):
    kept = [row for row in findings(*BOTH) if row.rung != rung]
    asked = judge(kept, BOTH)
    assert asked.left_open == (f"rung {rung}: not run (nothing is said of it)",)
    unasked = judge(kept, BOTH, asked=set(ALL_RUNGS) - {rung})
    assert unasked.left_open == (f"rung {rung}: not run (not asked for)",)
    assert rung not in asked.passed_rungs and rung not in unasked.passed_rungs


def test_one_check_or_one_precision_leaves_its_rung_open():
    part = judge(change(findings(*BOTH), 3, "not run", check="a", precision="q4"), BOTH)
    assert part.left_open == ("rung 3 of q4, a: not run (w)",)
    one = judge(change(findings(*BOTH), 4, "not run", precision="q4"), BOTH)
    assert one.left_open == ("rung 4 of q4: not run (w)",)
    silent = [row for row in findings(*BOTH) if (row.rung, row.precision) != (5, "q4")]
    assert judge(silent, BOTH).left_open == ("rung 5 of q4: not run (nothing is said of it)",)
    for found in (part, one, judge(silent, BOTH)):
        assert found.stamp == "PARTLY VERIFIED (6 of 7)"


def test_parts_of_rungs_are_named_and_not_counted():
    """Where every precision passed some of it, and nothing failed."""
    found = change(findings(*BOTH, rungs=(0, 3, 4)), 3, "not run", check="a")
    part = judge(found, BOTH)
    assert (part.passed_rungs, part.partial_rungs) == ((0, 4), (3,))
    assert part.scope == "q4f16, q4 on rungs 0, 4 and parts of rung 3"
    assert judge(change(found, 3, "failed", check="b"), BOTH).partial_rungs == ()
    assert judge(change(found, 3, "not run", precision="q4"), BOTH).partial_rungs == ()
    failed = judge(change(found, 4, "failed", precision="q4"), BOTH)
    assert failed.scope == "q4 on rung 4; passed: rung 0 and parts of rung 3"


def test_checks_of_one_reason_share_a_sentence_and_packages_a_row():
    found = change(findings("q4f16", "q4", rungs=(0, 3, 4)), 4, "not run", why="gone")
    lost = [
        Finding(3, check, name, "not run", "gone", ("torch",)) for name in BOTH for check in "cd"
    ]
    assert explain([*found, *lost], BOTH, {3}) == ["rung 3, c, d: not run (gone)"]
    assert explain(found, BOTH, {3}) == [] and len(explain(found, BOTH, {2, 4})) == 2
    rows = merge_unrun([*lost, *found])
    assert [row for row in rows if row.lacks] == [
        Finding(3, "c, d", None, "not run", "gone", ("torch",))
    ]
    assert [row.rung for row in rows] == sorted(row.rung for row in rows)
    assert merge_unrun(lost[:2])[0].precision == "q4f16"


def test_other_precisions_of_the_artifact_are_said_to_be_open():
    found = judge(findings("q4"), ["q4"], left_out=["q4f16"])
    assert (found.stamp, found.scope[:2]) == ("PARTLY VERIFIED (7 of 7)", "q4")
    assert found.left_open == ("q4f16: not verified",)


def test_each_reason_is_said_once():
    kept = change(findings(*BOTH), 3, "not run", check="a")
    for rung in (5, 6):
        kept = change(kept, rung, "not run", why="no float model")
    found = judge([row for row in kept if row.rung != 2], BOTH, asked={0, 1, 3, 4, 5, 6})
    assert found.left_open == (
        "rung 2: not run (not asked for)",
        "rung 3, a: not run (w)",
        "rungs 5 and 6: not run (no float model)",
    )
    assert found.stamp == "PARTLY VERIFIED (3 of 7)"


def test_one_failure_is_the_verdict():
    found = judge(change(findings(*BOTH), 6, "failed", precision="q4", check="b"), BOTH)
    assert (found.verdict, found.stamp) == ("failed", "FAILED")
    assert found.passed_rungs == (0, 1, 2, 3, 4, 5)
    assert found.scope == "q4 on rung 6; passed: rungs 0, 1, 2, 3, 4, 5"


def test_failures_are_named_before_what_passed():
    found = change(findings(*BOTH), 6, "failed", precision="q4")
    found = change(found, 5, "failed")
    scope = judge(found, BOTH).scope
    assert scope == "q4f16 on rung 5, q4 on rungs 5, 6; passed: rungs 0, 1, 2, 3, 4"
    assert judge([Finding(0, "all", None, "failed", "")], ["q4"]).scope == (
        "q4 on rung 0; passed: no rung"
    )


@pytest.mark.parametrize("rungs", [(), (0,)])
def test_hashes_alone_verify_nothing(rungs):
    found = judge(findings(*BOTH, rungs=rungs), BOTH)
    assert (found.verdict, found.stamp) == ("not judged", "NOT JUDGED")
    asked = judge(findings(*BOTH, rungs=rungs), BOTH, asked=rungs)
    assert asked.scope == "only the files were hashed"


def test_where_nothing_was_judged_the_reason_is_named():
    found = change(findings("q4", rungs=(0, 1, 5)), 1, "not run")
    unjudged = judge(change(found, 5, "not judged"), ["q4"], asked=[0, 1, 5])
    assert unjudged.scope == "nothing of rungs 1 and 5 could be judged, only the files were hashed"
    unrun = judge(change(found, 5, "not run"), ["q4"], asked=[0, 1, 5])
    assert unrun.scope == "rungs 1 and 5 did not run, only the files were hashed"


def test_rungs_in_words():
    assert [name_rungs(numbers) for numbers in ((2,), (2, 5), (0, 2, 5))] == [
        "rung 2",
        "rungs 2 and 5",
        "rungs 0, 2 and 5",
    ]
