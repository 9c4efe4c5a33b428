"""The CPU as a device, with onnxruntime's own kernels; buffers are NumPy arrays."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime
from .base import Binding, Buffer, OneByOne, import_onnxruntime, run_errors_are_said


class Cpu(OneByOne):
    """The CPU, with onnxruntime's own kernels."""

    name, supports_batching = "cpu", True
    overlaps = False
    encoder_calls, calls_between_shifts = tuple(range(1, 17)), 4
    call_tokens = 1.0

    def __init__(self, reason: str | None = None):
        """Make the device; `reason` says why it replaces the one that was asked for."""
        self.notes = [] if reason is None else [f"running on the CPU: {reason}"]

    def open(
        self, path: str | bytes, options: Any, *, captures: bool
    ) -> onnxruntime.InferenceSession:
        """Open a session whose nodes all run on this device."""
        return import_onnxruntime().InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """Return a binding for one stream's calls of a session."""
        return HostBinding(session)

    def buffer(self, values: np.ndarray) -> Buffer:
        """Return a copy of values as a buffer."""
        return HostBuffer(values.copy())

    def batch_rows(self, count: int, slots: int) -> int:
        """Return `count`."""
        return count

    def free_memory(self) -> int | None:
        """Return None, because buffers are in the main memory."""
        return None

    def release_memory(self) -> None:
        """Do nothing, because it is given back at once."""

    def taken_memory(self) -> int:
        """Return 0, because buffers are in the main memory."""
        return 0


class HostBuffer:
    """A NumPy array as a buffer."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.nbytes = array.nbytes

    def read(self, rows: int | None = None) -> np.ndarray:
        """Return a view of the values."""
        return self.array[:, :, :rows]

    def write(self, values: np.ndarray) -> None:
        """Replace the first rows."""
        self.array[:, :, : values.shape[2]] = values

    def copy_from(self, other: Buffer, rows: int) -> None:
        """Copy the first `rows` rows of another buffer."""
        self.write(other.read(rows))

    def shift(self, keep: int) -> None:
        """Copy the last `keep` rows along the third axis to the front."""
        self.array[:, :, :keep] = self.array[:, :, self.shape[2] - keep :].copy()


class HostBinding:
    """The inputs and outputs of a session on the CPU, bound without copies."""

    reusable = False  # new buffers take no memory, unlike used ones

    def __init__(self, session: onnxruntime.InferenceSession):
        self.buffers: dict[str, Buffer] = {}
        self._arrays: dict[tuple[str, str], np.ndarray] = {}  # by the names of input and output
        self._values: dict[str, onnxruntime.OrtValue] = {}  # that share their memory, by output
        self._fetched: str | None = None  # by the last call
        self._session, self._io = session, session.io_binding()
        self._onnxruntime = import_onnxruntime()  # once, because it takes time

    def bind_state(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> HostBuffer:
        """Bind a new buffer of zeros as the input `past` and the output `present`."""
        return self._share(past, present, lazy_zeros(shape, dtype))

    def slice_batch(self, first: int, last: int) -> HostBinding:
        """Return a binding to some slots of the same buffers."""
        binding = HostBinding(self._session)
        for (past, present), array in self._arrays.items():
            binding._share(past, present, array[first:last])
        return binding

    def _share(self, past: str, present: str, array: np.ndarray) -> HostBuffer:
        self._arrays[past, present] = array
        self.buffers[past] = buffer = HostBuffer(array)
        value = self._onnxruntime.OrtValue.ortvalue_from_numpy(buffer.array)
        self._values[present] = value
        self._io.bind_ortvalue_input(past, value)
        self._io.bind_ortvalue_output(present, value)
        return buffer

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """Run a call with the inputs `feeds`, and return the output `fetch`."""
        for name, array in feeds.items():
            self._io.bind_cpu_input(name, array)
        if self._fetched not in (fetch, None):  # which would be computed as well
            self._io.clear_binding_outputs()
            for present, value in self._values.items():
                self._io.bind_ortvalue_output(present, value)
        self._fetched = fetch
        self._io.bind_output(fetch, "cpu")
        with run_errors_are_said("cpu"):
            self._session.run_with_iobinding(self._io)
        return self._io.get_outputs()[-1].numpy()  # the others are the buffers, bound before


def lazy_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros, whose pages take memory only when they are written.

    NumPy would ask for huge pages, of which the first row of each head of each layer takes one of
    2 MiB: 0.7 GB for the 4B model.
    """
    memory = mmap.mmap(-1, max(1, prod(shape) * dtype.itemsize))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)
