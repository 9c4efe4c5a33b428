"""Every parser takes or refuses what it is given; the runner finds those that do otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="limits are POSIX's")

from fuzz import faulty
from fuzz.mutate import mutant
from fuzz.runner import HERE, TARGETS, Limits, run, tally

INPUTS = 500
SEEDS = {"json": b'{"a": [1, {"b": "text"}], "c": null}', "toml": b'a = 1\nb = ["x"]\n'}


@pytest.mark.parametrize("target", TARGETS)
def test_a_parser_takes_or_refuses(target):
    found = tally(run(target, range(INPUTS)))
    assert found.inputs == INPUTS and found.taken and found.refused
    report = [f"{kind}: {target}:{o[0].number}\n{o[0].detail}" for kind, o in found.finds.items()]
    assert not report, "\n".join(report)


def test_every_fault_is_found_and_the_run_goes_on():
    limits = Limits(seconds=0.2, idle=3, memory=64 << 20)
    outcomes = list(run("fuzz.faulty", range(2 * len(faulty.FAULTS)), limits))
    assert [outcome.number for outcome in outcomes] == [*range(len(outcomes))]
    assert {outcome.verdict for outcome in outcomes[::2]} == {"taken"}
    for outcome, verdict in zip(outcomes[1::2], faulty.FAULTS, strict=True):
        if verdict.startswith("MemoryError") and sys.platform != "linux":
            continue  # no other system limits an address space
        assert outcome.verdict.startswith(verdict), outcome
        assert outcome.is_find == (verdict != "refused")
    found = tally(outcomes)
    assert (found.taken, found.refused) == (len(faulty.FAULTS), 1)
    assert len(found.finds) == len(faulty.FAULTS) - 1


def test_a_number_makes_one_input():
    inputs = [mutant(SEEDS, "parser", number) for number in range(1000)]
    assert inputs[:2] == list(SEEDS.values())
    assert inputs == [mutant(SEEDS, "parser", number) for number in range(1000)]
    assert len({*inputs}) > 600
    assert inputs[100:] != [mutant(SEEDS, "other", number) for number in range(100, 1000)]


def test_inputs_are_near_to_good_ones():
    """Many parse still, under other keys, with other types and values, deep and repeated."""
    parsed, deep = [], 0
    for number in range(2000):
        try:
            parsed.append(json.loads(mutant({"json": SEEDS["json"]}, "parser", number)))
        except RecursionError:
            deep += 1
        except ValueError:
            continue
    assert len(parsed) > 300 and deep > 10
    found = [values for values in parsed if isinstance(values, dict)]
    assert any("c" not in values for values in found)
    assert any("__proto__" in values for values in found)
    assert {type(values["c"]) for values in found if "c" in values} > {str, int, list, dict}


def test_the_table_of_a_page_is_written_anew(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- fuzz -->\nold\n<!-- end -->\nafter\n")
    command = [sys.executable, "-m", "fuzz", "state", "--inputs", "20", "--page", page]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=True)
    text = page.read_text()
    assert text == f"before\n<!-- fuzz -->\n{done.stdout}<!-- end -->\nafter\n"
    assert "\n| state | 20 | " in text and "\n| all | 20 | " in text and "old" not in text


def test_a_find_is_made_again(tmp_path):
    command = [sys.executable, "-m", "fuzz", "fuzz.faulty:13"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "dies of SIGABRT" in done.stdout
    assert (tmp_path / "build/fuzz/fuzz.faulty-13").is_file()
