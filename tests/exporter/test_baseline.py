"""The bytes of *tiny* and what is heard in its samples stay what they were.

Whoever means to change them writes the baseline anew.
"""

from __future__ import annotations

import json

import pytest
from golden import baseline


def test_exports_and_transcripts_are_those_of_the_baseline(tmp_path):
    wanted = json.loads(baseline.PATH.read_text())
    if wanted["place"] != baseline.place():
        pytest.skip(f"the baseline was made with {wanted['place']}, this is {baseline.place()}")
    made = baseline.make(tmp_path / "tiny-onnx")
    differing = {
        name
        for name in made["files"].keys() | wanted["files"].keys()
        if made["files"].get(name) != wanted["files"].get(name)
    }
    assert not differing
    assert made["heard"] == wanted["heard"]
