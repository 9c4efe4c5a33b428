"""onnxruntime's own kernels on the CPU; buffers are arrays of this process."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime
from .base import Binding, Buffer, import_onnxruntime, run_errors_are_said


class Cpu:
    """onnxruntime's own kernels; buffers are arrays of this process."""

    name, supports_batching = "cpu", True

    def __init__(self, reason: str | None = None):
        """`reason`: why this is not what was asked for."""
        self.notes = [] if reason is None else [f"running on the CPU: {reason}"]

    def open(
        self, path: str | bytes, options: Any, *, captures: bool
    ) -> onnxruntime.InferenceSession:
        """See `Device`."""
        return import_onnxruntime().InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """See `Device`."""
        return HostBinding(session)

    def free_memory(self) -> int | None:
        """See `Device`."""
        return None

    def taken_memory(self) -> int:
        """See `Device`."""
        return 0


class HostBuffer:
    """Memory of this process, taken page by page as rows are written.

    A stream grows with its context.
    """

    def __init__(self, array: np.ndarray):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.nbytes = array.nbytes

    def read(self, rows: int | None = None) -> np.ndarray:
        """See `Buffer`; a view."""
        return self.array[:, :, :rows]

    def write(self, values: np.ndarray) -> None:
        """See `Buffer`."""
        self.array[:, :, : values.shape[2]] = values

    def copy_from(self, other: Buffer, rows: int) -> None:
        """See `Buffer`."""
        self.write(other.read(rows))

    def shift(self, keep: int) -> None:
        """See `Buffer`."""
        self.array[:, :, :keep] = self.array[:, :, self.shape[2] - keep :].copy()


class HostBinding:
    """Arrays are bound without a copy."""

    reusable = False  # new buffers cost nothing, and used ones keep their memory

    def __init__(self, session: onnxruntime.InferenceSession):
        self.buffers: dict[str, Buffer] = {}
        self._arrays: dict[tuple[str, str], np.ndarray] = {}  # by the names of input and output
        self._session, self._io = session, session.io_binding()
        self._onnxruntime = import_onnxruntime()  # once: it looks what is installed

    def bind_state(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> HostBuffer:
        """See `Binding`."""
        return self._share(past, present, lazy_zeros(shape, dtype))

    def slice_batch(self, first: int, last: int) -> HostBinding:
        """See `Binding`."""
        binding = HostBinding(self._session)
        for (past, present), array in self._arrays.items():
            binding._share(past, present, array[first:last])
        return binding

    def _share(self, past: str, present: str, array: np.ndarray) -> HostBuffer:
        self._arrays[past, present] = array
        self.buffers[past] = buffer = HostBuffer(array)
        # Shares the array's memory
        value = self._onnxruntime.OrtValue.ortvalue_from_numpy(buffer.array)
        self._io.bind_ortvalue_input(past, value)
        self._io.bind_ortvalue_output(present, value)
        return buffer

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """See `Binding`."""
        for name, array in feeds.items():
            self._io.bind_cpu_input(name, array)
        self._io.bind_output(fetch, "cpu")
        with run_errors_are_said("cpu"):
            self._session.run_with_iobinding(self._io)
        return self._io.get_outputs()[-1].numpy()  # the buffers were bound before


def lazy_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return zeros whose memory is taken page by page when written.

    NumPy asks for huge pages, and 2 MiB for the first row of every head of every layer are 0.7 GB
    of the 4B model.
    """
    memory = mmap.mmap(-1, max(1, prod(shape) * dtype.itemsize))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)
