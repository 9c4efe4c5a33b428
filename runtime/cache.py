"""What a graph carries from call to call, in fixed buffers."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod

import numpy as np

from ..errors import UsageError
from ..manifest import CacheSpec, Manifest
from .session import Session, import_onnxruntime


class KVCache:
    """Key-value buffers of one stream, bound as past and present, and the convolution states beside them.

    The manifest's rule says which rows move and when (`CacheSpec`). The buffers take memory as rows are written, so a
    stream grows with its context and no further than the window.
    """

    def __init__(self, session: Session, spec: CacheSpec):
        ort = import_onnxruntime()
        self.spec, self.position = spec, 0
        self.buffers: list[np.ndarray] = []  # [1, kv_heads, capacity, head_dim], key and value of each layer
        self.states: list[np.ndarray] = []  # of the convolutions
        self.binding = session.ort.io_binding()
        for tensor in session.graph.inputs:
            is_cache = tensor.name.startswith("past_key_values.")
            if not (is_cache or tensor.name.endswith("_state")):
                continue
            sizes = {"batch": 1, "capacity": spec.capacity}
            shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
            array = lazy_zeros(shape, np.dtype(tensor.dtype))
            value = ort.OrtValue.ortvalue_from_numpy(array)  # shares the array's memory
            present = tensor.name.replace("past_key_values", "present") if is_cache else f"present_{tensor.name}"
            self.binding.bind_ortvalue_input(tensor.name, value)
            self.binding.bind_ortvalue_output(present, value)
            (self.buffers if is_cache else self.states).append(array)
        dtype = next(tensor.dtype for tensor in session.graph.inputs if tensor.name == "cos")
        self.dtype = np.dtype(dtype)
        self.inverse_frequencies = spec.rope_theta ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)

    def live(self) -> list[np.ndarray]:
        """Views of all that later calls can see: convolution states and written rows."""
        written = self.spec.row(self.position)
        return [*self.states, *(buffer[:, :, :written] for buffer in self.buffers)]

    def load(self, position: int, live: Sequence[np.ndarray]) -> None:
        """Take over what `live` gave at a position."""
        self.position = position
        for mine, theirs in zip(self.live(), live, strict=True):
            mine[...] = theirs

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
                buffer[:, :, : self.spec.keep] = buffer[:, :, self.spec.capacity - self.spec.keep :].copy()


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


def lazy_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Zeros whose memory is taken page by page when written.

    NumPy asks for huge pages, and 2 MiB for the first row of every head of every layer are 0.7 GB of the 4B model.
    """
    memory = mmap.mmap(-1, max(1, prod(shape) * dtype.itemsize))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)
