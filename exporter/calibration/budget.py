"""Choose one storage option for every group of tensors: the least drift within a size.

The drifts of groups are summed, because their errors are independent and a drift is about
quadratic in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from ...decode import Count
from ...errors import QuantizationError

# Number of equal cells that the spare bytes are divided into; rounding sizes up to whole cells
# wastes 0.1 % at most
CELLS = 100_000


@dataclass(frozen=True, slots=True)
class StorageOption:
    """One way to store a group of tensors."""

    bits: Annotated[int, Meta(ge=4, le=8)]
    block_size: Annotated[int, Meta(ge=16, le=128)]
    size: Count  # bytes
    drift: Annotated[float, Meta(ge=0)]  # how far the model's decisions move, 0 or more


def solve_knapsack(groups: Sequence[Sequence[StorageOption]], budget: int) -> list[int]:
    """Return the index of each group's storage option, for the least total drift within a budget.

    The sizes of the options sum to `budget` bytes at most. The multiple-choice knapsack is solved
    exactly up to the rounding of sizes.

    Raises:
        QuantizationError: not even the smallest options fit; the message has their size.
    """
    least = [min(option.size for option in options) for options in groups]
    spare = budget - sum(least)
    if spare < 0:
        raise QuantizationError(f"budget: expected at least {sum(least):,} bytes, got {budget:,}")

    # Find the least drift for each number of cells, a group at a time
    cell = max(1, -(-spare // CELLS))
    cells = spare // cell
    drift = np.zeros(cells + 1)  # the least sum so far, by the number of cells that may be used
    chosen = []
    for options, smallest in zip(groups, least, strict=True):
        best, index = np.full(cells + 1, np.inf), np.zeros(cells + 1, np.int16)
        for i, option in enumerate(options):
            extra = -(-(option.size - smallest) // cell)
            if extra > cells:
                continue
            sums = drift[: cells + 1 - extra] + option.drift
            is_better = sums < best[extra:]
            best[extra:][is_better] = sums[is_better]
            index[extra:][is_better] = i
        drift = best
        chosen.append(index)

    # Read the options off from the last group back
    picks, at = [], cells
    for options, smallest, index in zip(
        reversed(groups), reversed(least), reversed(chosen), strict=True
    ):
        picks.append(int(index[at]))
        at -= -(-(options[picks[-1]].size - smallest) // cell)
    return picks[::-1]
