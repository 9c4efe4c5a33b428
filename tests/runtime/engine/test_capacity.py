"""How many live streams a device carries, from what ticks of several sizes cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voxtral_onnx.runtime.engine.capacity import CALLS, capacity, cost_curve


@given(st.integers(1, 300), st.floats(0.0001, 0.2), st.floats(0.00001, 0.2))
def test_the_line_between_two_measured_counts_is_followed(most, fixed, each):
    calls = list[int]()

    def seconds(count: int) -> float:
        calls.append(count)
        return fixed + count * each

    curve = cost_curve(seconds, most, beyond=0.08)
    assert calls[::CALLS] == list(curve) and next(iter(curve)) == 1
    assert all(cost <= 0.08 for cost in list(curve.values())[:-1])
    found = capacity(curve, 0.064)
    assert 0 <= found <= most
    assert found == 0 or seconds(found) <= 0.064 * (1 + 1e-9)
    assert found == most or seconds(found + 1) >= 0.064 * (1 - 1e-9)


def test_the_fastest_call_counts():
    costs = iter([9.0, 1.0, 3.0, 5.0, 4.0, 2.0])
    assert cost_curve(lambda count: next(costs), 2, beyond=10.0) == {1: 1.0, 2: 2.0}


def test_a_device_that_is_slower_than_speech_carries_none():
    assert capacity(cost_curve(lambda count: 0.2, 64, beyond=0.08), 0.064) == 0
