"""Threads share the device, or one has it alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from voxtral_onnx.runtime.device.turns import Turns

SECONDS = 20.0  # after which a thread must be hanging


def test_any_number_share_it_at_a_time():
    turns, meeting = Turns(), threading.Barrier(3)

    def share():
        with turns.shared():
            meeting.wait(SECONDS)  # all are inside
        return True

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: share(), range(3)))


def test_one_has_it_alone():
    turns, inside, wrong = Turns(), [0, 0], []

    def work(number):
        for turn in range(200):
            is_alone = (number + turn) % 3 == 0
            with turns.alone() if is_alone else turns.shared():
                inside[is_alone] += 1
                if inside[True] and sum(inside) > 1:
                    wrong.append(tuple(inside))
                inside[is_alone] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong


def test_who_waits_to_be_alone_goes_first():
    """Those that came later do not keep it waiting."""
    turns, order, first = Turns(), [], threading.Event()
    entered, waits = threading.Event(), threading.Event()

    def share_first():
        with turns.shared():
            entered.set()
            assert first.wait(SECONDS)

    def be_alone():
        waits.set()
        with turns.alone():
            order.append("alone")

    def share_late():
        with turns.shared():
            order.append("shared")

    with ThreadPoolExecutor(3) as pool:
        works = [pool.submit(share_first)]
        assert entered.wait(SECONDS)
        works.append(pool.submit(be_alone))
        assert waits.wait(SECONDS)
        with turns._change:
            assert turns._change.wait_for(lambda: turns._waiting == 1, 0.5) or turns._waiting
        works.append(pool.submit(share_late))
        first.set()
        for each in works:
            each.result(SECONDS)
    assert order == ["alone", "shared"]


@pytest.mark.parametrize("kind", ["shared", "alone"])
def test_an_error_gives_it_back(kind):
    turns = Turns()
    with pytest.raises(ValueError), getattr(turns, kind)():
        raise ValueError
    with turns.alone():
        pass
    with turns.shared():
        pass
