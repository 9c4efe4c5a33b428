"""Times and sizes as people read them."""

from __future__ import annotations

import pytest

from voxtral_onnx.cli import terminal


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (754, "12:34"), (36_000, "10:00:00")]
)
def test_times_for_people(seconds, text):
    assert terminal.format_time(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (8_200_000, "8.2 MB"),
        (136_000_000, "136 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_sizes_for_people(size, text):
    assert terminal.format_size(size) == text
