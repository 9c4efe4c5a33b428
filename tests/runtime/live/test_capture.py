"""Captured samples wait with the times of their arrival, and a source that fails is told of."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.live.capture import Arrivals, Capture


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=30),
    st.lists(st.integers(1, 50), max_size=30),
)
def test_a_sample_has_arrived_with_the_block_that_ends_at_or_behind_it(sizes, steps):
    arrivals, asked = Arrivals(), np.cumsum([1, *steps])
    for time, size in enumerate(sizes):
        arrivals.add(size, time)
    ends = np.cumsum(sizes)
    assert arrivals.num_samples == ends[-1]
    for num_samples in asked[asked <= ends[-1]]:
        assert arrivals.time_of(num_samples) == np.searchsorted(ends, num_samples)


def test_a_source_that_fails_ends_behind_its_samples():
    def blocks():
        yield np.ones(3, np.float32)
        yield np.full(2, np.nan, np.float32)

    capture = Capture(blocks())
    assert sum(map(len, capture)) == 3 == capture.arrivals.num_samples
    assert isinstance(capture.error, AudioError) and "not a finite number" in str(capture.error)


def test_what_fails_once_it_is_no_longer_read_is_no_failure():
    stopped, threads = threading.Event(), []

    def blocks():
        threads.append(threading.current_thread())
        yield np.ones(3, np.float32)
        stopped.wait(60)
        raise AudioError("the program before the pipe was interrupted as well")

    capture, found = Capture(blocks()), []
    for samples in capture:
        found.append(samples)
        capture.stop()
        stopped.set()
    threads[0].join(60)
    assert len(found) == 1 and capture.error is None
