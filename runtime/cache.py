"""What a graph carries from call to call, in fixed buffers."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from ..errors import UsageError
from ..manifest import CacheSpec, Manifest
from .device import Buffer
from .session import Session


class KVCache:
    """Key-value buffers of one stream, bound as past and present, and the convolution states beside them.

    The manifest's rule says which rows move and when (`CacheSpec`). The buffers stand where the session runs; in this
    process's memory they take what rows are written, so a stream grows with its context and no further than the window.
    """

    def __init__(self, session: Session, spec: CacheSpec):
        self.spec, self.position = spec, 0
        self.buffers: list[Buffer] = []  # [1, kv_heads, capacity, head_dim], key and value of each layer
        self.states: list[Buffer] = []  # of the convolutions
        self.binding = session.take_binding()
        weakref.finalize(self, session.give_back, self.binding)
        for tensor in session.graph.inputs:
            is_cache = tensor.name.startswith("past_key_values.")
            if not (is_cache or tensor.name.endswith("_state")):
                continue
            sizes = {"batch": 1, "capacity": spec.capacity}
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)
            dtype = np.dtype(tensor.dtype)
            present = tensor.name.replace("past_key_values", "present") if is_cache else f"present_{tensor.name}"
            buffer = self.binding.buffers.get(tensor.name)
            if buffer is None or buffer.shape != shape:
                buffer = self.binding.hold(tensor.name, present, shape, dtype)
            elif not is_cache:  # rows of an earlier stream are written over before they are read
                buffer.write(np.zeros(shape, dtype))
            (self.buffers if is_cache else self.states).append(buffer)
        dtype = next(tensor.dtype for tensor in session.graph.inputs if tensor.name == "cos")
        self.dtype = np.dtype(dtype)
        self.inverse_frequencies = spec.rope_theta ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)

    def save(self) -> list[np.ndarray]:
        """All that later calls can see: convolution states and written rows."""
        written = self.spec.row(self.position)
        return [*(state.read() for state in self.states), *(buffer.read(written) for buffer in self.buffers)]

    def restore(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        """Take over what `save` gave at that position."""
        self.position = position
        for buffer, values in zip((*self.states, *self.buffers), arrays, strict=True):
            buffer.write(values)

    @property
    def room(self) -> int:
        """Rows the next call may write: no call crosses a move."""
        return self.spec.room(self.position)

    def positions(self, rows: int) -> dict[str, np.ndarray]:
        """The inputs that place the next `rows` rows: rotation by absolute position, writing by buffer row.

        Angles are computed in float64, so positions have no end.
        """
        assert 0 < rows <= self.room, f"{rows} rows at position {self.position} cross a move of the cache"
        angles = np.arange(self.position, self.position + rows)[None, :, None] * self.inverse_frequencies
        return {
            "cos": np.cos(angles).astype(self.dtype),
            "sin": np.sin(angles).astype(self.dtype),
            "seqlens_k": np.array([self.spec.row(self.position) + rows - 1], np.int32),
            "total_sequence_length": np.array(self.spec.capacity, np.int32),  # a smaller one may mean "no past"
        }

    def advance(self, rows: int) -> None:
        """Count rows as written, and move the last `keep` rows to the front where the buffer is full."""
        full = self.room == rows
        self.position += rows
        if full:
            for buffer in self.buffers:
                buffer.move_rows(self.spec.keep)

    def rewind(self, rows: int) -> None:
        """Take back the last rows, which are written over; none may be older than the last move."""
        if rows:
            assert self.spec.row(self.position) - rows >= self.spec.keep or self.position < self.spec.capacity
            self.position -= rows


def decoder_cache_spec(manifest: Manifest, context: int) -> CacheSpec:
    """The decoder's buffer for `context` positions, at most its window.

    Raises:
        UsageError: too few positions.
    """
    if not context >= 64:
        raise UsageError(f"context: expected at least 64 positions of 80 ms, got {context}")
    stack = manifest.config.decoder
    if context >= stack.sliding_window:
        return manifest.caches["decoder"]
    return CacheSpec.of(stack, 1, context // 4, context)
