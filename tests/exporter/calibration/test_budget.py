"""Spending against trying everything."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.exporter.calibration import budget as budgets
from voxtral_onnx.exporter.calibration.budget import StorageOption, solve_knapsack

forms = st.lists(
    st.builds(
        StorageOption,
        st.just(4),
        st.just(32),
        st.integers(0, 60),
        st.floats(0, 9).map(lambda x: round(x, 3)),
    ),
    min_size=1,
    max_size=4,
)
groups_of_forms = st.lists(forms, min_size=1, max_size=5)


def total(groups, picks):
    picked = [forms[pick] for forms, pick in zip(groups, picks, strict=True)]
    return sum(form.size for form in picked), sum(form.drift for form in picked)


def best_of_all(groups, budget):
    every = (total(groups, picks) for picks in product(*(range(len(forms)) for forms in groups)))
    return min((drift for size, drift in every if size <= budget), default=None)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(groups=groups_of_forms, budget=st.integers(0, 250))
def test_equals_trying_everything(groups, budget):
    expected = best_of_all(groups, budget)
    if expected is None:
        least = sum(min(form.size for form in forms) for forms in groups)
        with pytest.raises(
            QuantizationError, match=f"expected at least {least:,} bytes, got {budget:,}"
        ):
            solve_knapsack(groups, budget)
        return
    size, drift = total(groups, solve_knapsack(groups, budget))
    assert size <= budget
    assert drift == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(groups=groups_of_forms, budget=st.integers(0, 250))
def test_rounded_sizes_still_fit(groups, budget):
    """With ten cells.

    Never above the budget, never worse than what a budget smaller by the rounding gives.
    """
    if best_of_all(groups, budget) is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budgets, "CELLS", 10)
        size, drift = total(groups, solve_knapsack(groups, budget))
    least = sum(min(form.size for form in forms) for forms in groups)
    cell = -(-(budget - least) // 10)
    assert size <= budget
    tighter = best_of_all(groups, max(least, budget - cell * (len(groups) + 1)))
    assert tighter is not None and drift <= tighter + 1e-9


def test_a_larger_budget_never_drifts_more():
    groups = [
        [StorageOption(4, 32, 10, 3.0 / (i + 1)), StorageOption(8, 32, 19 + i, 0.1)]
        for i in range(8)
    ]
    drifts = [total(groups, solve_knapsack(groups, budget))[1] for budget in range(80, 200)]
    assert drifts == sorted(drifts, reverse=True) and drifts[0] > drifts[-1] == pytest.approx(0.8)
