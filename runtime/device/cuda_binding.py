"""Buffers in a CUDA device's memory, and bindings whose calls are captured and replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from threading import Lock, local
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Buffer, import_onnxruntime, run_errors_are_said
from .cpu import HostBuffer, lazy_zeros

if TYPE_CHECKING:
    import onnxruntime

    from .cuda import Cuda

# Inputs that CUDA's kernels expect in the CPU's memory
_READ_BY_THE_HOST = ("total_sequence_length", "attention_metadata")
_ALIGNMENT = 256  # bytes, as of CUDA's allocations


class CudaBuffer:
    """A buffer in a CUDA device's memory, or a slice of one.

    Its address never changes, because captured calls contain it.
    """

    def __init__(
        self,
        device: Cuda,
        shape: Sequence[int],
        dtype: np.dtype,
        whole: CudaBuffer | None = None,
        at: int = 0,
    ):
        """Allocate a buffer, or make a slice of the buffer `whole` that begins at its byte `at`."""
        self.shape, self.dtype, self.nbytes = tuple(shape), dtype, prod(shape) * dtype.itemsize
        self.device = device
        self._value = whole._value if whole else device.zeros(self.shape, dtype)
        self._address = (whole._address if whole else self._value.data_ptr()) + at

    def slice_batch(self, first: int, last: int) -> CudaBuffer:
        """Return a slice with the slots from `first` to before `last`."""
        shape = (last - first, *self.shape[1:])
        return CudaBuffer(
            self.device, shape, self.dtype, self, first * (self.nbytes // self.shape[0])
        )

    def as_rows(self, first: int, count: int) -> CudaBuffer:
        """Return so many pages [pages, page_rows, heads, size] as rows [1, 1, rows, values]."""
        _, page_rows, heads, size = self.shape
        at = first * (self.nbytes // self.shape[0])
        shape = (1, 1, count * page_rows, heads * size)
        return CudaBuffer(self.device, shape, self.dtype, self, at)

    def bind(self, io: Any, past: str | None = None, present: str | None = None) -> None:
        """Bind it as the input `past` and the output `present` of the next calls."""
        where = (
            self.device.place,
            self.device.index,
            self.dtype.type,
            list(self.shape),
            self._address,
        )
        if past:
            io.bind_input(past, *where)
        if present:
            io.bind_output(present, *where)

    def read(self, rows: int | None = None) -> np.ndarray:
        """Return a copy of the values in the CPU's memory."""
        return self.device.read(self)[:, :, :rows]

    def write(self, values: np.ndarray) -> None:
        """Replace the first rows."""
        if values.size:
            self.device.copy_rows(values, self)

    def copy_from(self, other: Buffer, rows: int) -> None:
        """Copy the first rows, or all, without moving them through the CPU's memory."""
        self.device.copy_all([other], [self], rows)

    def shift(self, keep: int) -> None:
        """Copy the last `keep` rows along the third axis to the front."""
        self.device.shift_all([self], keep)


class CudaBinding:
    """The inputs and outputs of a session on a CUDA device, at addresses that do not change.

    Calls are replayed as CUDA graphs, if the session captures. In the first call with some shapes
    onnxruntime allocates the outputs, and later calls write to them. The second call is captured,
    and onnxruntime runs it several times; states that do not append must therefore be separate
    inputs and outputs.
    """

    reusable = True  # captured calls contain its addresses and live as long as the session

    def __init__(
        self, device: Cuda, session: onnxruntime.InferenceSession, *, captures_calls: bool = True
    ):
        """Bind nothing yet; `captures_calls` allows to capture calls if the session does so."""
        self.buffers: dict[str, Buffer] = {}
        self._device, self._session, self._io = device, session, session.io_binding()
        self._captures, self._captures_calls = device.captures(session), captures_calls
        self._lock = device.locks.setdefault(id(session), Lock())
        self._caches: dict[tuple[str, str], CudaBuffer] = {}  # by the names of input and output
        self._are_pages = False  # the caches, which all slots share
        # Slices, kept because their captured calls are kept
        self._parts: dict[tuple[int, int], CudaBinding] = {}
        # A few kB each, which are copied with the inputs
        self._states: dict[str, tuple[str, HostBuffer]] = {}
        self._calls: dict[tuple, _Call] = {}  # by the shapes of all inputs
        self._bound: _Call | None = None

    def bind_state(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> Buffer:
        """Bind a new buffer of zeros as the input `past` and the output `present`."""
        if appends:
            return self._share(past, present, CudaBuffer(self._device, shape, dtype))
        self.buffers[past] = buffer = HostBuffer(lazy_zeros(shape, dtype))
        self._states[past] = present, buffer
        return buffer

    def bind_pages(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype
    ) -> CudaBuffer:
        """Bind new pages as the input `past` and the output `present`; every slice has all."""
        self._are_pages = True
        return self._share(past, present, CudaBuffer(self._device, shape, dtype))

    def slice_batch(self, first: int, last: int) -> CudaBinding:
        """Return a binding to some slots of the same buffers.

        Calls of a single slot are rare (the prompt, and tokens that are sampled again) and are not
        captured.
        """
        if (first, last) not in self._parts:
            binding = self._parts[first, last] = CudaBinding(
                self._device, self._session, captures_calls=last - first > 1
            )
            for (past, present), buffer in self._caches.items():
                part = buffer if self._are_pages else buffer.slice_batch(first, last)
                binding._share(past, present, part)
            for past, (present, state) in self._states.items():
                part = HostBuffer(state.array[first:last])
                binding.buffers[past], binding._states[past] = part, (present, part)
        return self._parts[first, last]

    def _share(self, past: str, present: str, buffer: CudaBuffer) -> CudaBuffer:
        self.buffers[past] = self._caches[past, present] = buffer
        buffer.bind(self._io, past, present)
        return buffer

    def _unbind_outputs(self) -> None:
        """Bind no outputs but the caches; those of another fetch would be computed as well."""
        self._io.clear_binding_outputs()
        for (_, present), buffer in self._caches.items():
            buffer.bind(self._io, present=present)

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """Run a call with the inputs `feeds`, and return the output `fetch`.

        Raises:
            DeviceError: the device's memory is full, or onnxruntime cannot run the graph.
        """
        # Find the memory for these shapes, and copy the inputs to it
        feeds = {**feeds, **{past: buffer.array for past, (_, buffer) in self._states.items()}}
        shapes = (fetch, *(array.shape for array in feeds.values()))
        call = self._calls.get(shapes)
        if call is None:
            names = [fetch, *(present for present, _ in self._states.values())]
            call = self._calls[shapes] = _Call(self._device, feeds, names)
        if call is not self._bound:
            if self._bound is None or call.fetched != self._bound.fetched:
                self._unbind_outputs()
            call.bind(self._io)
            self._bound = call
        with self._device.turns.shared():
            call.upload(feeds)

        # Run the call; alone if it captures
        captures = self._captures and self._device.captures_calls and self._captures_calls
        options = call.options(captures=captures) if self._captures else None
        is_capturing = captures and bool(call.outputs) and not call.is_captured
        turn = self._device.turns.alone if is_capturing else self._device.turns.shared
        # A session that captures can run only one call at a time
        with self._lock, turn(), run_errors_are_said(self._device.name):
            self._session.run_with_iobinding(self._io, options)

        # Return the output
        call.is_captured = captures and bool(call.outputs)
        if not call.outputs:
            # The buffers were bound before
            call.outputs = self._io.get_outputs()[-len(call.fetched) :]
            self._bound = None  # the next call is bound to these outputs
        with self._device.turns.shared():
            output, *states = (value.numpy() for value in call.outputs)
        for (_, buffer), values in zip(self._states.values(), states, strict=True):
            buffer.write(values)
        return output if output.flags.owndata else output.copy()  # the next call overwrites it


class _Call:
    """Memory for the inputs and outputs of all calls with the same shapes.

    All inputs are in one piece of memory, because a single copy to the device is faster.
    """

    def __init__(self, device: Cuda, feeds: Mapping[str, np.ndarray], fetched: list[str]):
        self._device, self._options, self.fetched = device, {}, fetched
        self._threads = local()
        self._on_host = {name: array for name, array in feeds.items() if name in _READ_BY_THE_HOST}
        # Offset, and a view of the staged bytes, by the name of the input
        self._places: dict[str, tuple[int, np.ndarray]] = {}
        offsets, size = {}, 0
        for name in feeds.keys() - self._on_host.keys():
            offsets[name] = size
            size += -(-feeds[name].nbytes // _ALIGNMENT) * _ALIGNMENT
        self._staged = np.zeros(size, np.uint8)
        for name, offset in offsets.items():
            array = feeds[name]
            view = (
                self._staged[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
            )
            self._places[name] = offset, view
        self._value = device.put(self._staged)
        self.outputs: list[onnxruntime.OrtValue] = []

    def bind(self, io: Any) -> None:
        """Bind these inputs and outputs for the next call."""
        device, address = self._device, self._value.data_ptr()
        for name, (offset, view) in self._places.items():
            io.bind_input(
                name, device.place, device.index, view.dtype.type, view.shape, address + offset
            )
        for name, array in self._on_host.items():
            io.bind_cpu_input(name, array)
        for i, name in enumerate(self.fetched):
            if self.outputs:
                io.bind_ortvalue_output(name, self.outputs[i])
            else:
                io.bind_output(name, device.place, device.index)

    def upload(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Copy the inputs to the device; those that stay on the CPU must be the same as before."""
        for name, (_, view) in self._places.items():
            view[...] = feeds[name]
        assert all(np.array_equal(feeds[name], array) for name, array in self._on_host.items())
        self._value.update_inplace(self._staged)

    @property
    def is_captured(self) -> bool:
        """Return whether this thread has captured the call; onnxruntime keeps graphs by thread."""
        return getattr(self._threads, "is_captured", False)

    @is_captured.setter
    def is_captured(self, value: bool) -> None:
        self._threads.is_captured = value

    def options(self, *, captures: bool) -> Any:
        """Return RunOptions with the number of the CUDA graph, or -1 to capture nothing."""
        captures = captures and bool(self.outputs)
        if captures not in self._options:
            options = self._options[captures] = import_onnxruntime().RunOptions()
            options.add_run_config_entry(
                "gpu_graph_id", str(next(self._device.capture_ids)) if captures else "-1"
            )
        return self._options[captures]
