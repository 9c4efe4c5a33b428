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
    def seconds_of_call(self, count: int) -> float: ...


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
        out = {}
        r = self.model.manifest.streaming
        m = r.look_back_samples + r.look_ahead_samples
        for s, x in samples.items():
            n = (len(x) - m) // 1280
            done = 0
            f = []
            while done < n:
                c = min(n - done, self.model.encoder.max_tokens(self._caches[s]))
                f.append(
                    self.model.encoder.encode(
                        self._caches[s], x[done * 1280 : (done + c) * 1280 + m]
                    )
                )
                done += c
            out[s] = np.concatenate(f)
        return out

    def free(self, slot):
        self._caches.pop(slot, None)

    def seconds_of_call(self, count):
        from time import perf_counter

        self.start(0)
        x = np.zeros(5000, np.float32)
        r = self.model.manifest.streaming
        began = perf_counter()
        self.encode({0: np.zeros(1280 + r.look_back_samples + r.look_ahead_samples, np.float32)})
        t = perf_counter() - began
        self.free(0)
        return t * count

    def close(self):
        self._caches.clear()


def open_live_encoder(
    model: LoadedModel, slots: int, start: StreamState, notes: list[str]
) -> LiveEncoder:
    return PerSlot(model, slots, start)
