"""Where the slots of one size are, as arrays, so that a step costs no work for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from .recording import BURST


class SlotState:
    """Arrays with an entry for each slot: where it is, and its current burst of positions."""

    def __init__(self, count: int, hidden_size: int, dtype: np.dtype):
        self.position = np.zeros(count, np.int64)
        self.next_id = np.zeros(count, np.int64)
        self.blanks = np.zeros(count, np.int64)  # written in a row
        self.delay = np.zeros(count, np.int64)
        self.asked_from = np.zeros(count, np.int64)  # position that samples the first token
        self.given_until = np.zeros(count, np.int64)  # position after those of known tokens
        self.checked_from = np.zeros(count, np.int64)  # position of the first in another piece
        self.has_spilled = np.zeros(count, bool)  # text was written there
        self.is_live = np.zeros(count, bool)
        self.stops_at_eos = np.zeros(count, bool)
        self.embeds = np.zeros((count, BURST, hidden_size), dtype)
        self.sampled = np.zeros((count, BURST, 3), np.float32)  # ids, logprobs, blank margins
        self.have, self.used = np.zeros(count, np.int64), np.zeros(count, np.int64)  # embeddings
        self.num_close = np.zeros(count, np.int64)
        self.seconds = np.zeros(count)

    def entries(self, slot: int) -> dict[str, Any]:
        """Return a copy of all entries of a slot, by the name of their array."""
        return {name: array[slot].copy() for name, array in vars(self).items()}

    def move(self, source: int, target: int) -> None:
        """Copy all entries of a slot to another."""
        for array in vars(self).values():
            array[target] = array[source]
