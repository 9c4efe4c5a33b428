"""The decision in NumPy is the one that the decoder's graph ends in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from voxtral_onnx.exporter.model.voxtral import Decoder as GraphDecoder
from voxtral_onnx.runtime.decision import greedy_decision

SIZE = 9
LOGPROB_ATOL = 2e-6  # float32 sums in another order
# Many of them are equal
HALVES = st.integers(-6, 6).map(lambda count: np.float32(count / 2))
PENALTIES = st.sampled_from([np.float32(0), np.float32(0.5), np.float32(1), np.float32(7)])
POSITIONS = st.tuples(st.integers(1, 3), st.integers(1, 4))  # [batch, seq]


class GraphRule(GraphDecoder):
    """The tail of the decoder module alone."""

    def __init__(self, blank: int):
        torch.nn.Module.__init__(self)
        self.blank, self.blank_mask = blank, torch.zeros(SIZE)
        self.blank_mask[blank] = -1e9
        self.token_ids = torch.arange(SIZE, dtype=torch.float32)


@st.composite
def positions(draw) -> tuple[np.ndarray, np.ndarray]:
    """Logits, [batch, seq, SIZE], and penalties, [batch, seq]."""
    shape = draw(POSITIONS)
    logits = draw(arrays.arrays(np.float32, (*shape, SIZE), elements=HALVES, fill=st.nothing()))
    return logits, draw(arrays.arrays(np.float32, shape, elements=PENALTIES))


@settings(max_examples=200, deadline=None)
@given(positions(), st.integers(0, SIZE - 1))
def test_it_is_the_graphs(values, blank):
    logits, penalty = values
    before = logits.copy()
    found = greedy_decision(logits, blank, penalty)
    expected = GraphRule(blank).sample(torch.from_numpy(logits), torch.from_numpy(penalty)).numpy()
    assert np.array_equal(found.token_id, expected[..., 0])
    assert np.array_equal(found.blank_margin, expected[..., 2])
    assert found.logprob == pytest.approx(expected[..., 1], abs=LOGPROB_ATOL)
    assert np.array_equal(logits, before)
    assert {part.dtype for part in found[1:]} == {np.dtype(np.float32)}


@settings(max_examples=100, deadline=None)
@given(positions(), st.integers(0, SIZE - 1))
def test_lead_and_sum(values, blank):
    """Against a sort, one position after another, with a penalty and without."""
    for logits, penalty in zip(values[0].reshape(-1, SIZE), values[1].ravel(), strict=True):
        found, plain = greedy_decision(logits, blank, penalty), greedy_decision(logits, blank)
        held_back = logits - penalty * (np.arange(SIZE) == blank)
        for decision, compared in ((found, held_back), (plain, logits)):
            second, best = np.sort(compared)[-2:]
            assert decision.lead == best - second
            assert compared[decision.token_id] == best
            assert best not in compared[: decision.token_id], "the lower id wins"
        assert found.log_sum == plain.log_sum
        assert found.log_sum == pytest.approx(np.log(np.exp(logits.astype(np.float64)).sum()))


def test_logits_far_from_zero_do_not_overflow():
    for offset in (-1e30, 3e4, 1e30):
        logits = np.full(SIZE, offset, np.float32)
        found = greedy_decision(logits, 3, 7.0)
        assert np.isfinite(found.logprob) and found.log_sum == pytest.approx(offset, rel=1e-3)
