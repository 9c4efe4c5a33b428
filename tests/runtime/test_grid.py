"""Calls of the encoder: no call crosses a shift, and all that a query sees is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.grid import EncoderGrid


@pytest.fixture(scope="module")
def manifest(tiny_artifact):
    return Manifest.read(tiny_artifact)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=4, unique=True),
    st.integers(1, 5),
    st.integers(1, 2000),
    st.integers(0, 5000),
)
def test_shifts_fall_between_calls(manifest, sizes, calls_between_shifts, window, last):
    base = manifest.caches["encoder"]
    keep = -(-(window - 1) // 4) * 4
    spec = replace(base, window=window, keep=keep, capacity=keep + 4)
    manifest = replace(manifest, caches={**manifest.caches, "encoder": spec})
    grid = EncoderGrid.of(manifest, tuple(sorted(sizes)), calls_between_shifts)
    assert grid.spec.keep >= window - 1
    assert grid.period == calls_between_shifts * grid.chunk
    assert grid.first * 1280 <= 32 * 1280 - 40 < (grid.first + 1) * 1280  # silence with its margin
    position = 0
    while position < last:
        end = grid.next_end(position)
        assert position < end <= position + grid.chunk
        assert position >= grid.first or end <= grid.first
        rows = (end - position) * spec.rows_per_token
        assert rows <= grid.spec.slots_left(position * spec.rows_per_token)
        # A recording's last call, padded to a size, does not cross a shift either
        for tokens in {1, (end - position) // 2 or 1, end - position}:
            size = grid.call_size(tokens)
            assert size >= tokens and size in sizes
            padded = size * spec.rows_per_token
            is_silent = position < grid.first  # nothing ends there
            assert is_silent or padded <= grid.spec.slots_left(position * spec.rows_per_token)
        position = end


def test_the_call_does_not_depend_on_where_it_is_asked(manifest):
    """Any position in a call has the same end, so a resumed stream meets the grid again."""
    grid = EncoderGrid.of(manifest, (8, 16), 4)
    for position in range(grid.first, 200):
        end = grid.next_end(position)
        assert (end - grid.first) % grid.chunk == 0 and end - grid.chunk <= position < end
    assert grid.next_end(0) == grid.chunk and grid.next_end(grid.first - 1) == grid.first
