"""Which slots share a call, if only some of them have something to compute."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf


def plan_calls(tokens: Mapping[int, int], call_tokens: float) -> list[tuple[int, int]]:
    """Return the slots of each call, from the first to before the last, that together cost least.

    A call computes as many tokens for each of its slots, idle ones too, as the one brings that
    brings most.

    Args:
        tokens: by slot, at least 1.
        call_tokens: the cost of a call besides that of its tokens, in theirs; infinite where all
            calls are to begin with the first slot, so that they have few shapes.
    """
    if call_tokens == inf:
        return [(0, max(tokens) + 1)] if tokens else []

    if len(set(tokens.values())) == 1 and max(tokens) + 1 - min(tokens) == len(tokens):
        return [(min(tokens), max(tokens) + 1)]

    # For each number of first slots: the least cost, and the slots before the last call
    slots, best = sorted(tokens), [(0.0, 0)]
    for end in range(1, len(slots) + 1):
        most, ways = 0, list[tuple[float, int]]()
        for begin in reversed(range(end)):
            most = max(most, tokens[slots[begin]])
            width = slots[end - 1] + 1 - slots[begin]
            ways.append((best[begin][0] + call_tokens + width * most, begin))
        best.append(min(ways))

    # Walk back from the last call
    calls, end = list[tuple[int, int]](), len(slots)
    while end:
        begin = best[end][1]
        calls.append((slots[begin], slots[end - 1] + 1))
        end = begin
    return calls[::-1]
