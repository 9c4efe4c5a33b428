"""A CUDA device, on which everything that a stream carries stays from call to call."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeviceError
from .device import CUDA, Binding, Buffer, HostBuffer, import_onnxruntime, lazy_zeros
from .rows import move_rows_model, zeros_model

if TYPE_CHECKING:
    import onnxruntime

_INSTALL_GPU = "pip uninstall -y onnxruntime && pip install 'voxtral-onnx[gpu]'"
_CUDA_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]' nvidia-cublas"
_READ_BY_THE_HOST = ("total_sequence_length",)  # an input that CUDA's kernels want in the host's memory
_ALIGNMENT = 256  # bytes, as CUDA allocates
_SHAPE_OPERATORS = {"Concat", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze"}  # on the CPU by choice
_OUT_OF_MEMORY = ("out of memory", "Failed to allocate memory", "is smaller than requested bytes")


class Cuda:
    """One CUDA device."""

    records = True  # False runs every call anew: tests and benchmarks compare

    def __init__(self, index: int = 0):
        """Load the provider and see that it runs.

        Raises:
            DeviceError: with what is missing.
        """
        self.name, self.index, self.notes = f"cuda:{index}", index, []
        self.lock, self.recording_ids = Lock(), count(1)
        self._helpers: dict[tuple, onnxruntime.InferenceSession] = {}
        ort = import_onnxruntime()
        if CUDA not in ort.get_available_providers():
            raise DeviceError(f"{self.name}: this onnxruntime {ort.__version__} has no CUDA; run:\n  {_INSTALL_GPU}")
        ort.set_default_logger_severity(3)  # or every session warns that CUDA is not a plug-in
        self._free_at_first = self.free_memory()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            ort.preload_dlls()
        try:
            self.zeros((1,), np.dtype(np.float16))
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            reasons = "; ".join(filter(None, (_library_error(ort), *printed.getvalue().splitlines(), str(error))))
            raise DeviceError(f"{self.name}: {reasons}; CUDA's libraries come with:\n  {_CUDA_LIBRARIES}") from error

    def open(self, path: str | bytes, options: Any, *, captures: bool) -> onnxruntime.InferenceSession:
        """See `Device`.

        Raises:
            DeviceError: the provider does not load, its memory is full, or it has no kernel for some of the nodes.
        """
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        settings = {
            "device_id": str(self.index),
            "use_tf32": "0",  # float32 means float32
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(captures)),
        }
        with out_of_memory_is_said(self.name):
            session = import_onnxruntime().InferenceSession(
                path, options, providers=[(CUDA, settings)], enable_fallback=False
            )
        if CUDA not in session.get_providers():
            raise DeviceError("the CUDA provider does not load")
        on_cpu = Counter(
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != CUDA
            for node in part.get_nodes()
        )
        if on_cpu.keys() - _SHAPE_OPERATORS:
            kinds = ", ".join(f"{number} {operator}" for operator, number in sorted(on_cpu.items()))
            raise DeviceError(f"{path}: {on_cpu.total()} nodes have no CUDA kernel: {kinds}; use --device cpu")
        return session

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """See `Device`."""
        return CudaBinding(self, session)

    def free_memory(self) -> int:
        """See `Device`."""
        return _free_memory(self.index)

    def taken_memory(self) -> int:
        """See `Device`."""
        return self._free_at_first - self.free_memory()

    def _helper(self, model: Callable[..., bytes], *arguments: Any) -> onnxruntime.InferenceSession:
        """A session of one of the graphs of rows.py, opened once."""
        if (model, arguments) not in self._helpers:
            options = import_onnxruntime().SessionOptions()
            options.log_severity_level = 4
            self._helpers[model, arguments] = self.open(model(*arguments), options, captures=False)
        return self._helpers[model, arguments]

    def zeros(self, shape: Sequence[int], dtype: np.dtype) -> onnxruntime.OrtValue:
        """Zeros in the device's memory, which a session's arena takes without rounding up, as OrtValue's own does.

        Raises:
            DeviceError: it is full.
        """
        binding = self._helper(zeros_model, dtype, len(shape)).io_binding()
        binding.bind_cpu_input("shape", np.array(shape, np.int64))
        binding.bind_output("zeros", "cuda", self.index)
        with out_of_memory_is_said(self.name):
            self._helper(zeros_model, dtype, len(shape)).run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def move_rows(self, value: onnxruntime.OrtValue, dtype: np.dtype, keep: int) -> None:
        """Move the last `keep` rows along the third axis to the front."""
        session = self._helper(move_rows_model, dtype, value.shape()[2], keep)
        binding = session.io_binding()
        binding.bind_ortvalue_input("past", value)
        binding.bind_ortvalue_output("present", value)
        with out_of_memory_is_said(self.name):
            session.run_with_iobinding(binding)

    def put(self, array: np.ndarray) -> onnxruntime.OrtValue:
        """A copy in the device's memory.

        Raises:
            DeviceError: it is full.
        """
        with out_of_memory_is_said(self.name):
            return import_onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", self.index)


class CudaBuffer:
    """Memory of a CUDA device, at one address for life, as recorded calls need it."""

    def __init__(self, device: Cuda, shape: Sequence[int], dtype: np.dtype):
        self.shape, self.dtype, self.nbytes = tuple(shape), dtype, prod(shape) * dtype.itemsize
        self.device, self.value = device, device.zeros(self.shape, dtype)

    def read(self, rows: int | None = None) -> np.ndarray:
        """See `Buffer`; a copy."""
        return self.value.numpy()[:, :, :rows]

    def write(self, values: np.ndarray) -> None:
        """See `Buffer`; the rows behind them become zeros."""
        whole = np.zeros(self.shape, self.dtype)
        whole[:, :, : values.shape[2]] = values
        self.value.update_inplace(whole)

    def move_rows(self, keep: int) -> None:
        """See `Buffer`."""
        self.device.move_rows(self.value, self.dtype, keep)


class CudaBinding:
    """Inputs at fixed addresses; calls of a session that captures are replayed as CUDA graphs.

    A shape's first call lets onnxruntime allocate the outputs, which later ones write to. The second is recorded, for
    which onnxruntime repeats it: states that do not append are therefore inputs and outputs in different places.
    """

    reusable = True  # recordings hold these addresses and last as long as the session

    def __init__(self, device: Cuda, session: onnxruntime.InferenceSession):
        self.buffers: dict[str, Buffer] = {}
        self._device, self._session, self._io = device, session, session.io_binding()
        self._captures = session.get_provider_options()[CUDA]["enable_cuda_graph"] == "1"
        self._states: dict[str, tuple[str, HostBuffer]] = {}  # a few kB each, which travel with the inputs
        self._calls: dict[tuple, _Call] = {}  # by the shapes of all inputs
        self._bound: _Call | None = None

    def hold(self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool) -> Buffer:
        """See `Binding`."""
        if appends:
            self.buffers[past] = buffer = CudaBuffer(self._device, shape, dtype)
            self._io.bind_ortvalue_input(past, buffer.value)
            self._io.bind_ortvalue_output(present, buffer.value)
        else:
            self.buffers[past] = buffer = HostBuffer(lazy_zeros(shape, dtype))
            self._states[past] = present, buffer
        return buffer

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """See `Binding`.

        Raises:
            DeviceError: the device's memory is full.
        """
        feeds = {**feeds, **{past: buffer.array for past, (_, buffer) in self._states.items()}}
        shapes = (fetch, *(array.shape for array in feeds.values()))
        call = self._calls.get(shapes)
        if call is None:
            names = [fetch, *(present for present, _ in self._states.values())]
            call = self._calls[shapes] = _Call(self._device, feeds, names)
        if call is not self._bound:
            call.bind(self._io)
            self._bound = call
        call.upload(feeds)
        options = call.options(self._device.records) if self._captures else None
        with self._device.lock, out_of_memory_is_said(self._device.name):  # recorded sessions run one call at a time
            self._session.run_with_iobinding(self._io, options)
        if not call.outputs:
            call.outputs = self._io.get_outputs()[-len(call.fetched) :]  # the buffers were bound before
            self._bound = None  # the next call is bound to these outputs
        output, *states = (value.numpy() for value in call.outputs)
        for (_, buffer), values in zip(self._states.values(), states, strict=True):
            buffer.write(values)
        return output


class _Call:
    """Memory for the inputs and the outputs of all calls with the same shapes.

    The inputs stand one behind the other, because each transfer to the device takes longer than its few bytes.
    """

    def __init__(self, device: Cuda, feeds: Mapping[str, np.ndarray], fetched: list[str]):
        self._device, self._options, self.fetched = device, {}, fetched
        self._on_host = {name: array for name, array in feeds.items() if name in _READ_BY_THE_HOST}
        self._places: dict[str, tuple[int, np.ndarray]] = {}  # offset, and a view of what is transferred
        offsets, size = {}, 0
        for name in feeds.keys() - self._on_host.keys():
            offsets[name] = size
            size += -(-feeds[name].nbytes // _ALIGNMENT) * _ALIGNMENT
        self._staged = np.zeros(size, np.uint8)
        for name, offset in offsets.items():
            array = feeds[name]
            view = self._staged[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
            self._places[name] = offset, view
        self._value = device.put(self._staged)
        self.outputs: list[onnxruntime.OrtValue] = []

    def bind(self, io: Any) -> None:
        """Make these the inputs and the outputs of the next call."""
        index, address = self._device.index, self._value.data_ptr()
        for name, (offset, view) in self._places.items():
            io.bind_input(name, "cuda", index, view.dtype.type, view.shape, address + offset)
        for name, array in self._on_host.items():
            io.bind_cpu_input(name, array)
        for i, name in enumerate(self.fetched):
            if self.outputs:
                io.bind_ortvalue_output(name, self.outputs[i])
            else:
                io.bind_output(name, "cuda", index)

    def upload(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Transfer the inputs; what the host reads must not have changed."""
        for name, (_, view) in self._places.items():
            view[...] = feeds[name]
        assert all(feeds[name] == array for name, array in self._on_host.items())
        self._value.update_inplace(self._staged)

    def options(self, records: bool) -> Any:
        """What says whether the call is recorded or replayed, and as which."""
        records = records and bool(self.outputs)
        if records not in self._options:
            options = self._options[records] = import_onnxruntime().RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(next(self._device.recording_ids)) if records else "-1")
        return self._options[records]


@contextlib.contextmanager
def out_of_memory_is_said(name: str) -> Iterator[None]:
    """Raise a DeviceError where onnxruntime finds a device's memory full."""
    try:
        yield
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise DeviceError(
            f"{name}: out of memory; a smaller --context, fewer streams or another --precision take less"
        ) from error


def _free_memory(index: int) -> int:
    """Bytes that are free on a CUDA device.

    Raises:
        DeviceError: no driver, or no such device.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"cuda:{index}: no NVIDIA driver ({error})") from error

    def call(function: str, *arguments: Any) -> None:
        if code := getattr(driver, function)(*arguments):
            raise DeviceError(f"cuda:{index}: the NVIDIA driver's {function} failed with code {code}")

    number, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(number))
    if index >= number.value:
        raise DeviceError(f"cuda:{index}: this machine has {number.value} CUDA device(s), from cuda:0")
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)  # kept: onnxruntime works in it
    call("cuCtxPushCurrent_v2", context)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    call("cuCtxPopCurrent_v2", ctypes.byref(context))
    return free.value


def _library_error(ort: Any) -> str | None:
    """What the system's loader says of the CUDA provider, None where it loads."""
    for name in ("shared", "cuda"):
        for path in (Path(ort.__file__).parent / "capi").glob(f"*onnxruntime_providers_{name}.*"):
            try:
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            except OSError as error:
                return str(error)
    return None
