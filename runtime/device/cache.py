"""Caches: fixed buffers that hold what a graph must remember between calls."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import numpy as np

from ...errors import UsageError
from ...manifest import CacheSpec, Manifest, TensorSpec
from .base import Binding, Buffer
from .session import Session


class KVCache:
    """The keys, values and convolution states of one stream.

    The key-value buffers are inputs (past) and outputs (present) of each call. When they are full,
    their last rows are shifted to the front, as the manifest says (`CacheSpec`). On the CPU only
    rows that were written take memory, so a stream takes more as its context grows, up to the
    window.
    """

    def __init__(self, session: Session, spec: CacheSpec, binding: Binding | None = None):
        """Make an empty cache.

        Args:
            session: of the graph.
            spec: sizes and shifts of the cache.
            binding: to a slot of a `BatchedKVCache`; None for one with buffers of its own.
        """
        # Acquire a binding
        self.spec, self.position, self._device = spec, 0, session.device
        # Key and value of each layer, [1, kv_heads, capacity, head_dim]
        self.buffers: list[Buffer] = []
        self.states: list[Buffer] = []  # of the convolutions
        if binding is None:
            binding = session.acquire(spec.capacity)
            weakref.finalize(self, session.release, binding, spec.capacity)
        self.binding = binding

        # Bind a buffer for each state, unless an earlier stream has left one
        for tensor, present, is_cache in states_of(session):
            shape, dtype = _shape(tensor, 1, spec), np.dtype(tensor.dtype)
            buffer = self.binding.buffers.get(tensor.name)
            if buffer is None or buffer.shape != shape:
                buffer = self.binding.bind_state(
                    tensor.name, present, shape, dtype, appends=is_cache
                )
            elif not is_cache:  # cache rows are overwritten before they are read
                buffer.write(np.zeros(shape, dtype))
            (self.buffers if is_cache else self.states).append(buffer)

        dtype = next(tensor.dtype for tensor in session.graph.inputs if tensor.name == "cos")
        self.dtype = np.dtype(dtype)

    def save(self) -> list[np.ndarray]:
        """Return everything that later calls depend on: convolution states and written rows."""
        written = self.spec.row(self.position)
        return [
            *(state.read() for state in self.states),
            *(buffer.read(written) for buffer in self.buffers),
        ]

    def saved_shapes(self, position: int) -> list[tuple[np.dtype, tuple[int, ...]]]:
        """Return the types and shapes of the arrays that `save` returns at a position."""
        batch, heads, _, size = self.buffers[0].shape
        written = (batch, heads, self.spec.row(position), size)
        return [
            *((state.dtype, state.shape) for state in self.states),
            *((buffer.dtype, written) for buffer in self.buffers),
        ]

    @property
    def nbytes(self) -> int:
        """Return the bytes of all buffers."""
        return sum(buffer.nbytes for buffer in (*self.states, *self.buffers))

    def restore(self, position: int, arrays: Sequence[np.ndarray]) -> None:
        """Continue from the arrays that `save` has returned at a position."""
        self.position = position
        for buffer, values in zip((*self.states, *self.buffers), arrays, strict=True):
            buffer.write(values)

    def copy_from(self, other: KVCache) -> None:
        """Copy the state of another cache with buffers of the same shapes."""
        self.position, written = other.position, self.spec.row(other.position)
        for mine, its in zip(
            (*self.states, *self.buffers), (*other.states, *other.buffers), strict=True
        ):
            mine.copy_from(its, written)

    @property
    def slots_left(self) -> int:
        """Return how many rows the next call may write without crossing a shift."""
        return self.spec.slots_left(self.position)

    def positions(self, rows: int) -> dict[str, np.ndarray]:
        """Return the graph's inputs that place the next `rows` rows.

        `cos` and `sin`, [1, rows, head_dim / 2], depend on the absolute position, `seqlens_k` on
        the row in the buffer.
        """
        positions = np.arange(self.position, self.position + rows)
        cos, sin = angles(self.spec, positions, self.dtype)
        return {"cos": cos[None], "sin": sin[None], **self.places(rows)}

    def places(self, rows: int) -> dict[str, np.ndarray]:
        """Return those of `positions` that depend on the buffer alone."""
        assert 0 < rows <= self.slots_left, (
            f"{rows} rows at position {self.position} cross a shift of the cache"
        )
        return {
            "seqlens_k": np.array([self.spec.row(self.position) + rows - 1], np.int32),
            # A smaller number could mean that there is no past
            "total_sequence_length": np.array(self.spec.capacity, np.int32),
        }

    def advance(self, rows: int) -> None:
        """Count `rows` rows as written, and shift the buffers if they are full."""
        full = self.slots_left == rows
        self.position += rows
        if full:
            self._device.shift_all(self.buffers, self.spec.keep)

    def trim(self, rows: int) -> None:
        """Drop the last `rows` rows, which must have been written after the last shift."""
        if rows:
            assert (
                self.spec.row(self.position) - rows >= self.spec.keep
                or self.position < self.spec.capacity
            )
            self.position -= rows


class BatchedKVCache:
    """The caches of several streams in common buffers [slots, kv_heads, capacity, head_dim].

    Each slot is the cache of one stream, with its own position and shifts. A single call can
    advance the streams of the first slots, the decoder's by one position each.
    """

    def __init__(self, session: Session, spec: CacheSpec, slots: int):
        self.spec, self.slots, self._session = spec, slots, session
        self._whole = session.device.bind(session.ort)
        for tensor, present, is_cache in states_of(session):
            shape, dtype = _shape(tensor, slots, spec), np.dtype(tensor.dtype)
            self._whole.bind_state(tensor.name, present, shape, dtype, appends=is_cache)
        self._bindings: dict[int, Binding] = {}  # by the number of first slots
        self._caches: dict[int, KVCache] = {}  # by slot
        self._angles = AngleTable(spec, session)

    def cache(self, slot: int) -> KVCache:
        """Return the cache of the stream in a slot."""
        if slot not in self._caches:
            binding = self._whole.slice_batch(slot, slot + 1)
            self._caches[slot] = KVCache(self._session, self.spec, binding)
        return self._caches[slot]

    def binding(self, last: int, first: int = 0) -> Binding:
        """Return the binding for calls that advance the slots from `first` to before `last`."""
        if first:  # kept for no other call: there are too many of them
            return self._whole.slice_batch(first, last)
        if last not in self._bindings:
            self._bindings[last] = self._whole.slice_batch(0, last)
        return self._bindings[last]

    @property
    def dtype(self) -> np.dtype:
        """Return the type of activations and caches."""
        return self._angles.dtype

    def angles(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `cos` and `sin`, [n, 1, head_dim / 2], of absolute positions, int64 [n]."""
        cos, sin = self._angles.of(positions)
        return cos[:, None], sin[:, None]


class AngleTable:
    """The angles of RoPE, those of the first positions computed beforehand."""

    def __init__(self, spec: CacheSpec, session: Session):
        dtype = next(tensor.dtype for tensor in session.graph.inputs if tensor.name == "cos")
        self.spec, self.dtype = spec, np.dtype(dtype)
        self._table = angles(spec, np.arange(spec.capacity), self.dtype)

    def of(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `cos` and `sin`, [n, head_dim / 2], of absolute positions, int64 [n]."""
        last = self.spec.capacity - 1
        cos, sin = (table[np.minimum(positions, last)] for table in self._table)
        if len(beyond := np.flatnonzero(positions > last)):
            cos[beyond], sin[beyond] = angles(self.spec, positions[beyond], self.dtype)
        return cos, sin


def angles(
    spec: CacheSpec, positions: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines and sines of RoPE, [n, head_dim / 2], of absolute positions, int64 [n].

    They are computed in float64, exact enough for any position.
    """
    frequencies = spec.rope_theta ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)
    radians = positions[:, None] * frequencies
    return np.cos(radians).astype(dtype), np.sin(radians).astype(dtype)


def buffer_rows(spec: CacheSpec, positions: np.ndarray) -> np.ndarray:
    """Return the buffer rows of absolute positions, as `CacheSpec.row` does; both int64 [n]."""
    shifted = spec.keep + (positions - spec.keep) % (spec.capacity - spec.keep)
    return np.where(positions < spec.capacity, positions, shifted)


def states_of(session: Session) -> Iterator[tuple[TensorSpec, str, bool]]:
    """Yield each input that is a state, the output that is its next one, and whether it is a cache.

    Caches have keys or values; the others are states of convolutions.
    """
    for tensor in session.graph.inputs:
        if tensor.name.startswith("past_key_values."):
            yield tensor, tensor.name.replace("past_key_values", "present"), True
        elif tensor.name.endswith("_state"):
            yield tensor, f"present_{tensor.name}", False


def _shape(tensor: TensorSpec, batch: int, spec: CacheSpec) -> tuple[int, ...]:
    sizes = {"batch": batch, "capacity": spec.capacity}
    return tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)


def check_context(context: int) -> None:
    """Refuse a context that is too small.

    Raises:
        UsageError: it has fewer than 64 positions.
    """
    if not context >= 64:
        raise UsageError(f"context: expected at least 64 positions of 80 ms, got {context}")


def decoder_cache_spec(manifest: Manifest, context: int) -> CacheSpec:
    """Return the spec of the decoder's cache for a context, which its window limits.

    Raises:
        UsageError: the context has fewer than 64 positions.
    """
    check_context(context)
    stack = manifest.config.decoder
    if context >= stack.sliding_window:
        return manifest.caches["decoder"]
    return CacheSpec.of(stack, 1, context // 4, context)
