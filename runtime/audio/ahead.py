"""Open recordings in threads, a few ahead of the one that is wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Opened = TypeVar("Opened")


def opened_ahead(
    items: Iterable[Item],
    open: Callable[[Item], Opened],
    *,
    threads: int,
    ahead: int,
    closed: Event | None = None,
) -> Generator[tuple[Item, Future[Opened]], None, None]:
    """Yield every item in its turn with a future of what `open` returns, while others are opened.

    The future's `result()` waits, and raises what `open` has raised for that item alone. When the
    generator is closed, or an error ends it, items that wait are not opened, those that are being
    opened are waited for, and no thread is left.

    Args:
        items: taken in the thread that iterates, as few ahead as `ahead` allows. An error in it is
            raised after all items before it were yielded.
        open: called in a thread with each item.
        threads: that open at a time.
        ahead: items at most that are opened or being opened, the one yielded last included.
        closed: set when the generator is closed or ends, so that `open` may end early.
    """
    assert threads > 0 and ahead > 0
    left, waiting = iter(items), deque[tuple[Item, Future[Opened]]]()
    end: Exception | None = None
    pool = ThreadPoolExecutor(threads, "opening")
    try:
        while waiting or end is None:
            while end is None and len(waiting) < ahead:
                try:
                    item = next(left)
                except Exception as error:  # StopIteration too
                    end = error
                else:
                    waiting.append((item, pool.submit(open, item)))
            if waiting:
                yield waiting.popleft()  # of which no reference stays here
        if not isinstance(end, StopIteration):
            raise end
    finally:
        if closed:
            closed.set()
        pool.shutdown(cancel_futures=True)
