"""A GPU used through WebGPU, with onnxruntime's plug-in.

Caches stay in its memory between calls; all other inputs and outputs are copied.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DeviceError
from .base import (
    WEBGPU,
    Binding,
    Buffer,
    OneByOne,
    account_for_nodes,
    import_onnxruntime,
    run_errors_are_said,
)
from .cpu import HostBuffer, lazy_zeros
from .helper_graphs import helper_graph

if TYPE_CHECKING:
    import onnxruntime

_INSTALL = "pip install 'voxtral-onnx[webgpu]'"
# Attention gets a multiple of so many rows, because every other number rounds sums differently
VISIBLE_STEP = 256
_LOADER = "libvulkan.so.1"  # on Linux; other systems have D3D12 or Metal


class WebGpu(OneByOne):
    """The GPU that the plug-in chooses, which is Dawn's first one of high performance."""

    supports_batching = False  # buffers have no addresses, so they cannot be sliced
    overlaps = False
    encoder_calls, calls_between_shifts = tuple(range(1, 17)), 4
    call_tokens = 1.0

    def __init__(
        self, index: int = 0, activation_dtype: str = "float32", *, allow_fallback: bool = False
    ):
        """Register the plug-in, and check that it runs a node.

        Args:
            index: must be 0, because the plug-in chooses the GPU.
            activation_dtype: type of the node's values, as in the model.
            allow_fallback: run nodes without a WebGPU kernel on the CPU, with a note.

        Raises:
            DeviceError: a package, a driver or a GPU is missing, or the GPU does not support the
                type.
        """
        # Find the GPU
        self.name, self.notes, self._allows_cpu = f"webgpu:{index}", [], allow_fallback
        if index:
            raise DeviceError(
                f"{self.name}: the plug-in takes the adapter by itself; use --device webgpu"
            )
        self._ep_device = _find_device(self.name)
        self._lock = Lock()
        self._rotators: dict[np.dtype, onnxruntime.InferenceSession] = {}

        # Run a node
        dtype, shape = np.dtype(activation_dtype), (1, 1, 4, 2)
        try:
            self._allocator = self._rotator(dtype)
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            raise DeviceError(
                f"{self.name}: no adapter that WebGPU takes ({_reason(error)}); install the GPU's "
                "driver, or use --device cpu"
            ) from error
        try:
            self.shift(self.zeros(shape, dtype), dtype, 2)
        except Exception as error:
            raise DeviceError(
                f"{self.name}: its adapter does not compute in {activation_dtype} "
                f"({_reason(error)}); use --precision q4, which takes float32, or --device cpu"
            ) from error

    def open(
        self, path: str | bytes, options: Any, *, captures: bool
    ) -> onnxruntime.InferenceSession:
        """Open a session whose nodes all run on this device.

        Raises:
            DeviceError: the GPU's memory is full, or it has no kernel for some of the nodes.
        """
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.add_provider_for_devices([self._ep_device], {"enableInt64": "1"})  # token ids
        with run_errors_are_said(self.name):
            session = import_onnxruntime().InferenceSession(path, options, enable_fallback=False)
        account_for_nodes(session, WEBGPU, path, self.notes if self._allows_cpu else None)
        return session

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """Return a binding for one stream's calls of a session."""
        return WebGpuBinding(self, session)

    def buffer(self, values: np.ndarray) -> Buffer:
        """Raise NotImplementedError, because batches are not supported."""
        raise NotImplementedError

    def batch_rows(self, count: int, slots: int) -> int:
        """Raise NotImplementedError, because batches are not supported."""
        raise NotImplementedError

    def free_memory(self) -> int | None:
        """Return None, because WebGPU does not tell."""
        return None

    def release_memory(self) -> None:
        """Do nothing, because it is given back at once."""

    def taken_memory(self) -> int:
        """Return 0, because WebGPU does not tell."""
        return 0

    def run(
        self, session: onnxruntime.InferenceSession, binding: Any
    ) -> list[onnxruntime.OrtValue]:
        """Run a call, and return the outputs in the order in which they were bound.

        Raises:
            DeviceError: the GPU's memory is full, or onnxruntime cannot run the graph.
        """
        # One call at a time, because all sessions of the plug-in share the GPU's queue
        with self._lock, run_errors_are_said(self.name):
            session.run_with_iobinding(binding)
        return binding.get_outputs()

    def zeros(self, shape: Sequence[int], dtype: np.dtype) -> onnxruntime.OrtValue:
        """Return zeros in the GPU's memory.

        Raises:
            DeviceError: the memory is full.
        """
        with run_errors_are_said(self.name):
            value = self._allocator.create_ortvalue_from_shape_and_type(
                list(shape), dtype, "webgpu"
            )
            value.update_inplace(lazy_zeros(shape, dtype))
        return value

    def shift(
        self, value: onnxruntime.OrtValue, dtype: np.dtype, keep: int
    ) -> onnxruntime.OrtValue:
        """Return a copy in which the last `keep` rows along the third axis are the first ones."""
        session = self._rotator(dtype)
        binding = session.io_binding()
        binding.bind_cpu_input("start", np.array([value.shape()[2] - keep], np.int64))
        binding.bind_ortvalue_input("past", value)
        binding.bind_output("present", "webgpu")
        return self.run(session, binding)[0]

    def _rotator(self, dtype: np.dtype) -> onnxruntime.InferenceSession:
        if dtype not in self._rotators:
            options = import_onnxruntime().SessionOptions()
            options.log_severity_level = 4
            session = self.open(helper_graph("rotate", dtype), options, captures=False)
            self._rotators[dtype] = session
        return self._rotators[dtype]


class WebGpuBuffer:
    """A buffer in the GPU's memory."""

    def __init__(self, device: WebGpu, shape: Sequence[int], dtype: np.dtype):
        self.shape, self.dtype, self.nbytes = tuple(shape), dtype, prod(shape) * dtype.itemsize
        self.device, self.value = device, device.zeros(shape, dtype)

    def read(self, rows: int | None = None) -> np.ndarray:
        """Return a copy of the values in the CPU's memory."""
        ort, array = import_onnxruntime(), np.empty(self.shape, self.dtype)
        ort.copy_tensors([self.value], [ort.OrtValue.ortvalue_from_numpy(array)])
        return array[:, :, :rows]

    def write(self, values: np.ndarray) -> None:
        """Replace the first rows, and fill the others with zeros."""
        whole = np.zeros(self.shape, self.dtype)
        whole[:, :, : values.shape[2]] = values
        self.value.update_inplace(whole)

    def copy_from(self, other: Buffer, rows: int) -> None:
        """Copy the first `rows` rows of another buffer."""
        self.write(other.read(rows))

    def shift(self, keep: int) -> None:
        """Copy the last `keep` rows to the front, in new memory."""
        self.value = self.device.shift(self.value, self.dtype, keep)


class WebGpuBinding:
    """The inputs and outputs of a session on the GPU.

    Caches stay in its memory; inputs, convolution states and the output are copied.
    """

    reusable = True  # saves the allocation of large buffers for each stream

    def __init__(self, device: WebGpu, session: onnxruntime.InferenceSession):
        self.buffers: dict[str, Buffer] = {}
        self._device, self._session = device, session
        self._caches: dict[tuple[str, str], WebGpuBuffer] = {}  # by the names of input and output
        # A few kB each
        self._states: dict[tuple[str, str], HostBuffer] = {}

    def bind_state(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> Buffer:
        """Bind a new buffer of zeros as the input `past` and the output `present`."""
        if appends:
            buffer = self._caches[past, present] = WebGpuBuffer(self._device, shape, dtype)
        else:
            buffer = self._states[past, present] = HostBuffer(lazy_zeros(shape, dtype))
        self.buffers[past] = buffer
        return buffer

    def slice_batch(self, first: int, last: int) -> Binding:
        """Raise NotImplementedError, because batches are not supported."""
        raise NotImplementedError

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """Run a call with the inputs `feeds`, and return the output `fetch`.

        Raises:
            DeviceError: the GPU's memory is full, or onnxruntime cannot run the graph.
        """
        io = self._session.io_binding()
        for name, array in {**feeds, **_visible_rows(feeds)}.items():
            io.bind_cpu_input(name, array)
        io.bind_output(fetch, "cpu")
        for (past, present), state in self._states.items():
            io.bind_cpu_input(past, state.array)
            io.bind_output(present, "cpu")
        for (past, present), buffer in self._caches.items():
            io.bind_ortvalue_input(past, buffer.value)
            io.bind_ortvalue_output(present, buffer.value)
        output, *states = (
            value.numpy() for value in self._device.run(self._session, io)[: 1 + len(self._states)]
        )
        for state, values in zip(self._states.values(), states, strict=True):
            state.write(values)
        return output


def _reason(error: Exception) -> str:
    """Return Dawn's part of an error message, without the place in onnxruntime's source."""
    return " ".join(str(error).split()).rpartition(" was false. ")[2]


def _visible_rows(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the number of cache rows that attention computes with, in place of all.

    Empty rows would take as much time as others. There are always more rows than the call's own,
    because otherwise the kernel would take it that there is no past.
    """
    written, capacity = int(feeds["seqlens_k"].max()) + 1, int(feeds["total_sequence_length"])
    return {
        "total_sequence_length": np.array(
            min(capacity, (written // VISIBLE_STEP + 1) * VISIBLE_STEP), np.int32
        )
    }


@cache
def _register(path: str) -> None:
    import_onnxruntime().register_execution_provider_library("webgpu", path)


def _find_device(name: str) -> Any:
    """Return onnxruntime's object for the GPU, which sessions of the plug-in need.

    Raises:
        DeviceError: a package, the system's Vulkan loader or a GPU is missing, or versions do not
            fit together.
    """
    # Check that packages and libraries are there
    ort = import_onnxruntime()
    if not hasattr(ort.InferenceSession, "create_ortvalue_from_shape_and_type"):
        raise DeviceError(
            f"{name}: onnxruntime {ort.__version__} keeps no caches there; needed is "
            f"1.32:\n  {_INSTALL}"
        )
    try:
        import onnxruntime_ep_webgpu as plugin  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DeviceError(
            f"{name}: onnxruntime's plug-in for WebGPU is missing; run:\n  {_INSTALL}"
        ) from error
    if sys.platform == "linux":
        try:
            ctypes.CDLL(_LOADER)
        except OSError as error:
            raise DeviceError(
                f"{name}: {_LOADER} is missing, the loader of Vulkan ({error}); on Debian: apt-get "
                "install libvulkan1"
            ) from error

    # Register the plug-in, and take the first GPU
    try:
        _register(plugin.get_library_path())
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        raise DeviceError(
            f"{name}: onnxruntime {ort.__version__} does not take its plug-in ({error})"
        ) from error
    devices = [device for device in ort.get_ep_devices() if device.ep_name == plugin.get_ep_name()]
    if not devices:
        raise DeviceError(f"{name}: onnxruntime sees no GPU on this machine; use --device cpu")
    return devices[0]
