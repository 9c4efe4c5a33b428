"""How many live streams a device carries: measured when an engine starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

SHARE = 0.8  # of a tick that its work may take; the rest is for text, other work and bad luck
CALLS = 3  # of which the fastest counts


def cost_curve(seconds: Callable[[int], float], most: int, *, beyond: float) -> dict[int, float]:
    """Return the seconds of a tick by its number of streams, up to `most`.

    They are 1, 2, 4 and so on up to 64, then its multiples: as many as calls of a GPU have slots,
    each of which is captured thus.

    Args:
        seconds: returns how long the calls of a tick take with so many streams.
        most: streams.
        beyond: seconds; once a tick takes longer, larger ones are not tried.
    """
    found, count = dict[int, float](), 1
    while True:
        found[count] = min(seconds(count) for _ in range(CALLS))
        if count == most or found[count] > beyond:
            return found
        count = min(count + min(count, 64), most)


def capacity(curve: Mapping[int, float], limit: float) -> int:
    """Return the most streams whose tick takes no longer than `limit`, in seconds; maybe 0.

    Between two counts that were measured, costs are taken to lie on a line.
    """
    last, last_cost = 0, 0.0
    for count, cost in sorted(curve.items()):
        if cost > limit:
            if last == 0:
                return 0
            return last + int((limit - last_cost) / (cost - last_cost) * (count - last))
        last, last_cost = count, cost
    return last
