"""Items are opened in threads, in turn, never too many, and no thread outlives the iteration."""

from __future__ import annotations

import threading
import weakref
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.ahead import opened_ahead


class Opened:
    """What `open` returns: an object of its own that can be watched."""

    def __init__(self, item: int):
        self.item = item


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.integers(1, 4), st.integers(1, 6))
def test_items_come_in_turn_and_are_taken_lazily(length, threads, ahead):
    taken, yielded, caller = 0, 0, threading.get_ident()

    def items():
        nonlocal taken
        for number in range(length):
            assert threading.get_ident() == caller
            taken += 1
            yield number

    for item, future in opened_ahead(items(), Opened, threads=threads, ahead=ahead):
        assert item == yielded == future.result().item
        yielded += 1
        assert taken == min(length, yielded + ahead - 1)
    assert yielded == taken == length


def test_those_who_open_are_told_that_it_is_closed():
    closed = threading.Event()

    def open(item: int) -> bool:
        return item == 0 or closed.wait(60)

    pairs = opened_ahead(range(3), open, threads=2, ahead=2, closed=closed)
    next(pairs)
    pairs.close()
    assert closed.is_set()


def test_never_more_are_held_than_asked_for():
    opened, most = weakref.WeakSet[Opened](), 0

    def open(item: int) -> Opened:
        opened.add(made := Opened(item))
        return made

    pairs = opened_ahead(range(30), open, threads=3, ahead=4)
    for _, future in pairs:
        future.result()
        del future
        most = max(most, len(opened))
    assert 1 < most <= 4


def test_a_fault_belongs_to_its_item():
    def open(item: int) -> int:
        if item % 2:
            raise AudioError(f"{item}: no sound")
        return item

    for item, future in opened_ahead(range(6), open, threads=2, ahead=3):
        if item % 2:
            with pytest.raises(AudioError, match=f"{item}: no sound"):
                future.result()
        else:
            assert future.result() == item


def test_an_error_of_the_items_comes_after_those_before_it():
    def items():
        yield from range(3)
        raise AudioError("the list ends here")

    found = list[int]()
    with pytest.raises(AudioError, match="the list ends here"):
        for _, future in opened_ahead(items(), Opened, threads=2, ahead=8):
            found.append(future.result().item)
    assert found == [0, 1, 2]


@pytest.mark.parametrize("stop", ["close", "interrupt"])
def test_what_waits_is_not_opened_after_the_end(stop):
    begun, go_on, started = list[int](), threading.Event(), threading.Event()
    soon = threading.Timer(0.05, go_on.set)

    def open(item: int) -> None:
        begun.append(item)
        started.set()
        assert item == 0 or go_on.wait(10)

    def items():
        for number in count():
            if stop == "interrupt" and number == 6:
                assert started.wait(10)
                soon.start()
                raise KeyboardInterrupt
            yield number

    pairs = opened_ahead(items(), open, threads=1, ahead=5)
    if stop == "close":
        next(pairs)
        soon.start()
        pairs.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            for _ in pairs:
                pass
    soon.join()
    assert len(begun) <= 2  # the one that was yielded, and the one that was being opened
