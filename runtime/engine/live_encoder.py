"""TEMPORARY."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ..model import LoadedModel
from ..stream_state import StreamState


class LiveEncoder(Protocol):
    slots: int
    max_tokens: int

    def start(self, slot: int) -> None: ...
    def encode(self, samples: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]: ...
    def free(self, slot: int) -> None: ...
    def close(self) -> None: ...


class PerSlot:
    def __init__(self, model, slots, start):
        self.model, self.slots, self.max_tokens = model, slots, 4
        self._start = start
        self._caches = {}

    def start(self, slot):
        cache = self._caches[slot] = self.model.encoder.new_cache()
        cache.restore(
            self._start.position.encoder,
            [a for n, a in self._start.arrays.items() if n.startswith("encoder_")],
        )

    def encode(self, samples):
        return {s: self.model.encoder.encode(self._caches[s], x) for s, x in samples.items()}

    def free(self, slot):
        self._caches.pop(slot, None)

    def close(self):
        self._caches.clear()


def open_live_encoder(
    model: LoadedModel, slots: int, start: StreamState, notes: list[str]
) -> LiveEncoder:
    return PerSlot(model, slots, start)
