"""Where recordings begin is found as the patterns alone find it, only faster."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_onnx.runtime.audio.container import starts
from voxtral_onnx.runtime.audio.container.starts import find_all


def alternatives(pattern: re.Pattern[bytes]) -> list[bytes]:
    """Return the alternatives of a pattern, which are those outside brackets and parentheses."""
    found, depth, in_class, at = [b""], 0, False, 0
    text = pattern.pattern
    while at < len(text):
        byte = text[at : at + (2 if text[at : at + 1] == b"\\" else 1)]
        at += len(byte)
        in_class = byte == b"[" or (in_class and byte != b"]")
        depth += 0 if in_class else (byte == b"(") - (byte == b")")
        if byte == b"|" and not depth and not in_class:
            found.append(b"")
        else:
            found[-1] += byte
    return found


def same(pattern: re.Pattern[bytes], data: bytes) -> int:
    """Assert that both find the same, and return how much."""
    expected = [found.span() for found in pattern.finditer(data)]
    assert [found.span() for found in find_all(pattern, data)] == expected
    return len(expected)


CASES = [
    pytest.param(pattern, each, id=repr(each))
    for pattern in (starts.MARK, starts._FRAME)
    for each in alternatives(pattern)
]


def test_there_are_all_alternatives():
    assert len(CASES) > 40


@pytest.mark.parametrize(("pattern", "alternative"), CASES)
def test_every_beginning_is_found(pattern, alternative):
    noise = np.random.default_rng(0).bytes(20_000)
    one = st.from_regex(re.compile(alternative, re.DOTALL), fullmatch=False)

    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(one, st.integers(0, 9), st.sampled_from([b"", b"G" * 400]))
    def check(mark, at, behind):
        assert same(pattern, noise[:at] + mark + behind + noise[: 12_000 + at]) > 0

    check()


@pytest.mark.parametrize("pattern", [starts.MARK, starts._FRAME], ids=["mark", "frame"])
@pytest.mark.parametrize("byte", [b"\0", b"G", b"\xff", b"f", b"\0G"])
def test_runs_of_a_byte(pattern, byte):
    noise = np.random.default_rng(1).bytes(30_000)
    for data in (b"", byte, byte * 3000, noise + byte * 2000, byte * 400 + noise, noise[:1]):
        same(pattern, data)
