"""All live streams in one call, whose attention takes the number of rows of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...device.base import LENGTHS
from ...device.cache import BatchedKVCache
from ...device.session import Session
from ...model import LoadedModel
from ...stream_state import StreamState
from ..calls import plan_calls
from .samples import MOST_TOKENS, TokenSamples
from .silent_start import SilentStart


class BatchedEncoder:
    """All streams in one call, whose attention takes the number of rows of each.

    Buffers are larger than those of a single stream by the padding of a call: the rows of the slot
    that brings most are there for every slot, idle ones included, although nothing is written
    there. When a slot has used up the rows of a single stream, its last `keep` are shifted to the
    front, so a slot's rows depend on the sizes of its calls and not on its position alone.
    """

    max_tokens = MOST_TOKENS

    def __init__(
        self,
        model: LoadedModel,
        session: Session,
        slots: int,
        start: StreamState,
    ):
        """Make the buffers of all slots; `session` is of the graph for several streams.

        Raises:
            DeviceError: the device's memory is full.
        """
        self.slots, self._spec = slots, model.encoder.spec
        self._device, self._start = model.device, SilentStart(model, start)
        self._samples = TokenSamples(model)
        most_rows = self.max_tokens * self._spec.rows_per_token
        self._capacity = self._spec.capacity + most_rows - self._spec.rows_per_token
        self._batch = BatchedKVCache(session, replace(self._spec, capacity=self._capacity), slots)
        self._position = np.zeros(slots, np.int64)
        self._rows = np.zeros(slots, np.int64)  # written to the buffers; 0 in free slots
        self._full = np.zeros(slots, np.int64)  # rows from which on they are shifted

    def start(self, slot: int) -> None:
        """Begin a stream in a slot."""
        self._start.write(self._batch.cache(slot))
        spec, position = self._spec, self._start.position
        self._position[slot], self._rows[slot] = position, spec.row(position)
        # A shift takes far longer than a row of a call. Streams that begin together would all be
        # shifted in the same call, for ever, so their first shifts come at different times.
        turn = slot % ((spec.capacity - spec.keep) // spec.rows_per_token)
        self._full[slot] = spec.capacity - turn * spec.rows_per_token

    def encode(self, samples: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the audio embeddings of the next tokens of some streams."""
        tokens = self._samples.count(samples, self.max_tokens)
        found: dict[int, np.ndarray] = {}
        for first, last in plan_calls(tokens, self._device.call_tokens):
            part = {slot: tokens[slot] for slot in range(first, last) if slot in tokens}
            if not first:
                last = self._device.batch_rows(last, self.slots)
            found |= self._encode(first, last, part, samples)
        return found

    def _encode(
        self, first: int, last: int, tokens: Mapping[int, int], samples: Mapping[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """Run a call with the slots from `first` to before `last`; tokens are given by slot."""
        places = {slot: slot - first for slot in tokens}
        for slot in tokens:
            assert self._rows[slot], f"slot {slot} has no stream"
        features = self._samples.mel_frames(places, samples, last - first, max(tokens.values()))
        new = np.zeros(last - first, np.int64)
        for slot, count in tokens.items():
            new[slot - first] = count * self._spec.rows_per_token
        # Run the call
        at = slice(first, last)
        output = run_batch(self._batch, features, self._position[at], self._rows[at], new, first)

        # Count the rows, and shift the buffers that are full
        self._position[at] += new
        self._rows[at] += new
        for slot in tokens:
            if self._rows[slot] >= self._full[slot]:
                self._shift(slot)
        return {slot: output[slot - first, :count] for slot, count in tokens.items()}

    def _shift(self, slot: int) -> None:
        """Copy the last `keep` rows of a slot to the front, and all behind them, which are free."""
        unused = self._capacity - int(self._rows[slot])
        buffers = self._batch.cache(slot).buffers
        self._device.shift_all(buffers, self._spec.keep + unused)
        self._rows[slot], self._full[slot] = self._spec.keep, self._spec.capacity

    def seconds_of_call(self, count: int, tokens: int = 1) -> float:
        """Return how long calls take for tokens of so many streams, with full buffers."""
        self._rows[:count] = self._spec.capacity - (tokens + 1) * self._spec.rows_per_token
        self._full[:count] = self._spec.capacity
        seconds = self._samples.time_call(self.encode, count, tokens)
        for slot in range(count):
            self.free(slot)
        return seconds

    def free(self, slot: int) -> None:
        """End the stream of a slot."""
        self._position[slot] = self._rows[slot] = 0

    def close(self) -> None:
        """Free the graph and the buffers."""
        del self._batch, self._start


def run_batch(
    batch: BatchedKVCache,
    features: np.ndarray,
    positions: np.ndarray,
    rows: np.ndarray,
    new: np.ndarray,
    first: int = 0,
) -> np.ndarray:
    """Run a call for the slots from `first` on.

    Args:
        batch: the caches of all slots.
        features: mel frames, float32 [slots, n_mels, frames], padded behind.
        positions: of the slots' next rows, int64 [slots].
        rows: that each slot's buffers hold, int64 [slots].
        new: rows that each slot brings, int64 [slots].
        first: slot of the call.

    Returns:
        The audio embeddings [slots, tokens, hidden_size]; those of padding mean nothing.
    """
    count, width = len(features), features.shape[2] // 2  # the convolutions halve the rate
    places = positions[:, None] + np.arange(width)
    cos, sin = (part.reshape(count, width, -1) for part in batch.angles(places.ravel()))
    feeds = {
        "input_features": features,
        "cos": cos,
        "sin": sin,
        # Of a free slot there is no last row
        "seqlens_k": np.maximum(rows + new - 1, 0).astype(np.int32),
        "total_sequence_length": np.array(batch.spec.capacity, np.int32),
        LENGTHS: new.astype(np.int32),
    }
    return batch.binding(first + count, first).run(feeds, "audio_embeds")
