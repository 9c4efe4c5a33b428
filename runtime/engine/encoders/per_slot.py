"""A call for each live stream, each with a cache of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...device.cache import KVCache
from ...model import LoadedModel
from ...stream_state import StreamState
from .samples import MOST_TOKENS, TokenSamples
from .silent_start import SilentStart


class EncoderPerSlot:
    """A call for each stream, each with a cache of its own."""

    max_tokens = MOST_TOKENS

    def __init__(self, model: LoadedModel, slots: int, start: StreamState):
        """Prepare slots, whose buffers are made when they are first used."""
        self.slots = slots
        self._encoder, self._start = model.encoder, SilentStart(model, start)
        self._samples = TokenSamples(model)
        self._caches: dict[int, KVCache] = {}  # by slot
        self._unused: list[KVCache] = []

    def start(self, slot: int) -> None:
        """Begin a stream in a slot."""
        self.free(slot)
        cache = self._unused.pop() if self._unused else self._encoder.new_cache()
        self._start.write(cache)
        self._caches[slot] = cache

    def encode(self, samples: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the audio embeddings of the next tokens of some streams."""
        tokens = self._samples.count(samples, self.max_tokens)
        return {slot: self._encode(slot, samples[slot], tokens[slot]) for slot in samples}

    def _encode(self, slot: int, samples: np.ndarray, tokens: int) -> np.ndarray:
        assert slot in self._caches, f"slot {slot} has no stream"
        cache, done, found = self._caches[slot], 0, list[np.ndarray]()
        while done < tokens:  # calls may not cross a shift
            count = min(tokens - done, self._encoder.max_tokens(cache))
            found.append(self._encoder.encode(cache, self._samples.cut(samples, done, count)))
            done += count
        return np.concatenate(found)

    def seconds_of_call(self, count: int, tokens: int = 1) -> float:
        """Return how long calls take for tokens of so many streams, with full buffers."""
        self.start(0)
        spec = self._encoder.spec
        self._caches[0].position = spec.capacity - (tokens + 1) * spec.rows_per_token
        seconds = self._samples.time_call(self.encode, 1, tokens)
        self.free(0)
        return count * seconds

    def free(self, slot: int) -> None:
        """End the stream of a slot."""
        if cache := self._caches.pop(slot, None):
            self._unused.append(cache)

    def close(self) -> None:
        """Free the buffers of all slots."""
        self._caches.clear()
        self._unused.clear()
