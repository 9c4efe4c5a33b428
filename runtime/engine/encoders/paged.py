"""Live streams in one call, whose caches are pages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...device.base import Buffer
from ...device.cuda import Cuda
from ...device.pages import PAGE_ROWS, PagedKVCache
from ...device.session import Session
from ...model import LoadedModel
from ...stream_state import StreamState
from .samples import CATCH_UP, MOST_TOKENS, TokenSamples

RUNS_TO_CAPTURE = 2  # of a shape


class PagedEncoder:
    """Those streams in one call that bring something.

    Idle streams are in no call, and nothing is shifted. Calls have few shapes, because each is
    captured once, which takes as long as several ticks.
    """

    max_tokens = MOST_TOKENS

    def __init__(
        self,
        model: LoadedModel,
        session: Session,
        device: Cuda,
        slots: int,
        start: StreamState,
        *,
        tick_tokens: int = 1,
    ):
        """Make the pages of all slots; `session` is of the graph with pages, on `device`.

        Raises:
            DeviceError: the device's memory is full.
        """
        self.slots, self._spec = slots, model.encoder.spec
        self._device, self._samples = device, TokenSamples(model)
        most_rows = self.max_tokens * self._rows_per_token
        self._cache = PagedKVCache(session, device, self._spec, slots, most_rows)

        # Keep the silence before all audio in the device's memory
        self._position = start.position.encoder
        assert self._position < self._spec.capacity, "rows of the silence were shifted"
        arrays = [rows for name, rows in start.arrays.items() if name.startswith("encoder_")]
        count = len(self._cache.states)
        self._states = arrays[:count]
        self._silence: list[Buffer] = [
            self._device.buffer(_as_page_rows(rows, self._cache.page_rows))
            for rows in arrays[count:]
        ]

        # Capture the calls of streams that catch up; those of a tick are measured, and thus are
        self._widths = sorted({1, tick_tokens, self.max_tokens})  # tokens
        for size in sorted({self._device.batch_rows(n, slots) for n in range(1, CATCH_UP + 1)}):
            for _ in range(RUNS_TO_CAPTURE):
                self.seconds_of_call(min(size, slots), self.max_tokens)

    @property
    def _rows_per_token(self) -> int:
        return self._spec.rows_per_token

    def start(self, slot: int) -> None:
        """Begin a stream in a slot."""
        self._cache.start(slot, self._position, self._states, self._silence)

    def encode(self, samples: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the audio embeddings of the next tokens of some streams."""
        if not samples:
            return {}
        tokens = self._samples.count(samples, self.max_tokens)
        for slot in samples:
            assert self._cache.rows[slot], f"slot {slot} has no stream"
        places = {slot: place for place, slot in enumerate(sorted(samples))}
        size = self._device.batch_rows(len(places), self.slots)
        most = max(tokens.values())
        width = next(width for width in self._widths if width >= most)
        features = self._samples.mel_frames(places, samples, size, width)
        new = np.array([tokens[slot] * self._rows_per_token for slot in places])
        output = self._cache.run(np.array(list(places)), features, new)
        return {slot: output[place, : tokens[slot]] for slot, place in places.items()}

    def seconds_of_call(self, count: int, tokens: int = 1) -> float:
        """Return how long a call takes for tokens of so many streams, with full caches."""
        self._cache.rows[:count] = self._spec.keep + PAGE_ROWS - self._rows_per_token - 1
        seconds = self._samples.time_call(self.encode, count, tokens)
        for slot in range(count):
            self.free(slot)
        return seconds

    def free(self, slot: int) -> None:
        """End the stream of a slot."""
        self._cache.free(slot)

    def close(self) -> None:
        """Free the graph and the pages."""
        del self._cache, self._silence


def _as_page_rows(rows: np.ndarray, size: int) -> np.ndarray:
    """Return rows [1, kv_heads, n, head_dim] as pages have them, then zeros.

    The result is [1, 1, size, kv_heads * head_dim].
    """
    _, heads, count, head_dim = rows.shape
    found = np.zeros((1, 1, size, heads * head_dim), rows.dtype)
    found[0, 0, :count] = rows[0].transpose(1, 0, 2).reshape(count, -1)
    return found
