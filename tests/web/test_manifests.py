"""The page reads manifests as Python does, whatever has been done to them."""

from __future__ import annotations

import json
import re

import pytest
from fuzz.mutate import mutant
from golden import manifests
from support.needs import need_node, run_node

from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.manifest import Manifest

SEEDS = {
    "format-2": json.dumps(manifests.BASE).encode(),
    "format-1": (manifests.HERE / "manifest_1.json").read_bytes(),
}


def refusal(text: str) -> str | None:
    try:
        Manifest.decode(text.encode(), "manifest")
    except ArtifactError as error:
        return str(error)
    return None


def plain(content: bytes) -> str | None:
    """Return a mutant as JSON that both languages understand alike, if it is any.

    JavaScript has one type of number, keeps the last of two values with one name, and takes
    halves of characters.
    """
    try:
        values = json.loads(content, parse_float=lambda number: as_javascript(float(number)))
    except (ValueError, RecursionError):
        return None
    text = json.dumps(values)
    return None if re.search(r"\\ud[89a-f]|NaN|Infinity", text) else text


def as_javascript(number: float) -> int | float:
    return int(number) if number.is_integer() else number


def test_the_file_is_written_by_the_script():
    stored = json.loads((manifests.HERE / "manifests.json").read_text("utf-8"))
    assert stored == json.loads(json.dumps(manifests.golden()))


def test_python_takes_and_refuses_what_the_file_says():
    wrong = []
    for taken, keys, *value in manifests.golden()["cases"]:
        edited = manifests.edited(manifests.BASE, keys, *(value or [manifests.GONE]))
        reason = refusal(json.dumps(edited))
        if taken != (reason is None):
            wrong.append((taken, keys, value, reason))
    assert not wrong


@pytest.mark.node
def test_mutants(tmp_path):
    need_node()
    found = (plain(mutant(SEEDS, "manifest", number)) for number in range(4000))
    judged = [(text, refusal(text)) for text in dict.fromkeys(filter(None, found))]
    taken = sum(reason is None for _, reason in judged)
    assert taken > 200 and len(judged) - taken > 700
    path = tmp_path / "manifests.json"
    path.write_text(json.dumps(judged))
    run_node("manifests.test.js", VOXTRAL_MANIFESTS=str(path))
