"""Caches of several streams in pages, which attention finds by a table instead of by their place.

A stream's window moves on without moving a row: a page that it has passed becomes its last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...manifest import CacheSpec
from .base import Buffer
from .cache import AngleTable, states_of
from .cuda import Cuda
from .session import Session

PAGE_ROWS = 256  # the fewest that CUDA's attention reads in place, for heads of 64 values


def num_pages(spec: CacheSpec, most_rows: int) -> int:
    """Return the pages of a stream: for its window, a page that it passes, and a call's rows."""
    return -(-(spec.keep + PAGE_ROWS + most_rows) // PAGE_ROWS)


def page_bytes(spec: CacheSpec, most_rows: int, item_size: int) -> int:
    """Return the bytes of a stream's keys and values in all layers."""
    rows = num_pages(spec, most_rows) * PAGE_ROWS
    return 2 * spec.num_layers * spec.num_key_value_heads * spec.head_dim * rows * item_size


class PagedKVCache:
    """The keys, values and convolution states of several streams, numbered from 0.

    A call advances any of them, each by as many rows as it brings.
    """

    def __init__(self, session: Session, device: Cuda, spec: CacheSpec, slots: int, most_rows: int):
        """Make the pages of all streams; a call brings at most `most_rows` rows of each.

        Raises:
            DeviceError: the device's memory is full.
        """
        self.spec, self.slots, self._device = spec, slots, device
        self._pages = num_pages(spec, most_rows)
        self._whole = device.bind(session.ort)
        self._rows: list[list[Buffer]] = [[] for _ in range(slots)]  # views of a stream's pages
        self.states: dict[str, np.ndarray] = {}  # of the convolutions, [slots, ...]
        sizes = {"batch": slots, "num_pages": slots * self._pages, "page_rows": PAGE_ROWS}
        for tensor, present, is_cache in states_of(session):
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)
            dtype = np.dtype(tensor.dtype)
            if is_cache:
                pages = self._whole.bind_pages(tensor.name, present, shape, dtype)
                for slot, rows in enumerate(self._rows):
                    rows.append(pages.as_rows(slot * self._pages, self._pages))
            else:
                self._whole.bind_state(tensor.name, present, shape, dtype, appends=False)
                self.states[tensor.name] = np.zeros(shape, dtype)
        self._angles = AngleTable(spec, session)
        self.position = np.zeros(slots, np.int64)
        self.rows = np.zeros(slots, np.int64)  # that a stream's pages hold; 0 in free slots
        self._own = np.arange(slots * self._pages, dtype=np.int32).reshape(slots, self._pages)
        self._table = self._own.copy()  # the pages of each stream, the oldest first

    @property
    def page_rows(self) -> int:
        """Return the rows of a stream's pages."""
        return self._pages * PAGE_ROWS

    def start(
        self, slot: int, position: int, states: Sequence[np.ndarray], rows: Sequence[Buffer]
    ) -> None:
        """Bring a stream into a state; nothing of an earlier one stays.

        Rows that no query sees must be finite, too: attention multiplies them by 0.

        Args:
            slot: of the stream.
            position: behind the rows, of which none has left the cache.
            states: of the convolutions, [1, ...].
            rows: keys and values in the device's memory, [1, 1, page_rows, kv_heads * head_dim],
                zeros from `position` on.
        """
        for mine, values in zip(self.states.values(), states, strict=True):
            mine[slot] = values[0]
        self._table[slot] = self._own[slot]
        self._device.copy_all(rows, self._rows[slot], self.page_rows)
        self.position[slot] = self.rows[slot] = position

    def free(self, slot: int) -> None:
        """End the stream of a slot."""
        self.position[slot] = self.rows[slot] = 0

    def run(self, slots: np.ndarray, features: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Run a call, and return the audio embeddings [slots, tokens, hidden_size].

        Those of padding mean nothing.

        Args:
            slots: int64 [n], those that bring rows.
            features: mel frames, float32 [batch, n_mels, frames], padded behind; `batch` is n or
                more, so that calls have few shapes.
            new: rows that each slot brings, int64 [n].
        """
        # Copy the convolutions' states
        batch, width, n = len(features), features.shape[2] // 2, len(slots)
        binding = self._whole.slice_batch(0, batch)
        for name, states in self.states.items():
            found = np.zeros((batch, *states.shape[1:]), states.dtype)
            found[:n] = states[slots]
            binding.buffers[name].write(found)

        # Run the call
        output = binding.run(self._feeds(slots, features, new), "audio_embeds")
        for name, states in self.states.items():
            states[slots] = binding.buffers[name].read()[:n]

        # Let go of pages that the window has passed
        self.position[slots] += new
        self.rows[slots] += new
        passed = slots[self.rows[slots] >= self.spec.keep + PAGE_ROWS]
        self._table[passed] = np.roll(self._table[passed], -1, axis=1)
        self.rows[passed] -= PAGE_ROWS
        return output.reshape(batch, width // self.spec.rows_per_token, -1)[:n]

    def _feeds(
        self, slots: np.ndarray, features: np.ndarray, new: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Return the inputs of a call besides the states and the pages."""
        batch, width, n = len(features), features.shape[2] // 2, len(slots)

        def padded(values: np.ndarray) -> np.ndarray:
            found = np.zeros((batch, *values.shape[1:]), np.int32)
            found[:n] = values
            return found

        # Find the place of each row, and none for padding
        count = np.arange(width)
        held, table = self.rows[slots], self._table[slots]
        at = held[:, None] + count
        pages = np.take_along_axis(table, at // PAGE_ROWS, axis=1)
        places = np.full((batch, width), -1, np.int32)
        places[:n] = np.where(count < new[:, None], pages * PAGE_ROWS + at % PAGE_ROWS, -1)

        # Padding of the batch looks at the first page
        positions = np.zeros((batch, width), np.int64)
        positions[:n] = self.position[slots][:, None] + count
        cos, sin = (part.reshape(batch, width, -1) for part in self._angles.of(positions.ravel()))
        return {
            "input_features": features,
            "cos": cos,
            "sin": sin,
            "query_seqlens": padded(new),
            "cumulative_sequence_length": np.arange(batch + 1, dtype=np.int32) * width,
            "past_seqlens": padded(held),
            "block_table": padded(table),
            "slot_mapping": places,
            "attention_metadata": np.array([width, self.page_rows], np.int32),
        }
