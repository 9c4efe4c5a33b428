"""Where graphs run: the CPU, or a CUDA device on which everything that a stream carries stays from call to call.

All that differs between them is here: what must be there, how a session is opened and checked, and how a call's inputs,
states and output are bound. onnxruntime replaces a provider that does not load, and a kernel that is not there, by the
CPU without an error; nothing here does unless it was allowed to.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from itertools import count
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import DeviceError, UsageError
from .rows import move_rows_model

if TYPE_CHECKING:
    import onnxruntime

_INSTALL = "pip install 'voxtral-onnx[cpu]'   # or 'voxtral-onnx[gpu]' for CUDA"
_INSTALL_GPU = "pip uninstall -y onnxruntime && pip install 'voxtral-onnx[gpu]'"
_CUDA = "CUDAExecutionProvider"
_CUDA_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]' nvidia-cublas"
_READ_BY_THE_HOST = ("total_sequence_length",)  # an input that CUDA's kernels want in the host's memory
_MAX_RECORDED_ROWS = 8  # longer calls are rare, and their kernels outweigh the time to launch them
_OUT_OF_MEMORY = ("out of memory", "Failed to allocate memory", "is smaller than requested bytes")


def import_onnxruntime():
    """The onnxruntime module.

    Raises:
        DeviceError: none of its wheels is installed, or both are, which overwrite each other.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) > 1:
        raise DeviceError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; run:\n"
            f"  pip uninstall -y onnxruntime onnxruntime-gpu\n  {_INSTALL}"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"onnxruntime is not installed ({error}); run:\n  {_INSTALL}") from error
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


class Buffer(Protocol):
    """An array that stays where a session runs, bound as input and output of its calls."""

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int

    def read(self, rows: int | None = None) -> np.ndarray:
        """Its values, or the first rows along the third axis."""
        ...

    def write(self, values: np.ndarray) -> None:
        """Replace the values, or those of the first rows along the third axis."""
        ...

    def move_rows(self, keep: int) -> None:
        """Move the last `keep` rows to the front."""
        ...


class Binding(Protocol):
    """The inputs and outputs of one session for one stream."""

    buffers: dict[str, Buffer]  # by the input's name
    reusable: bool  # by another stream after this one

    def hold(self, past: str, present: str, shape: Sequence[int], dtype: np.dtype) -> Buffer:
        """A buffer of zeros that is the input `past` and the output `present` of every call."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """One output of a call."""
        ...


class Device(Protocol):
    """Where sessions run."""

    name: str  # as `--device` takes it
    notes: list[str]  # what differs from what was asked for

    def open(self, path: str, options: Any, *, captures: bool) -> onnxruntime.InferenceSession:
        """A session all of whose nodes run here.

        `captures`: its calls with equal shapes are recorded and replayed where the device can do that; they must be
        repeatable.
        """
        ...

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """What one stream's calls of a session bind."""
        ...

    def free_memory(self) -> int | None:
        """Bytes free where the buffers are, None for the machine's memory."""
        ...

    def taken_memory(self) -> int:
        """Bytes that are no longer free there since the device was opened; 0 for the machine's memory."""
        ...


def open_device(asked: str, activation_dtype: str = "float16", *, allow_fallback: bool = False) -> Device:
    """The device that was asked for; `auto` is CUDA where it runs graphs of this type, else the CPU.

    Raises:
        UsageError: an unknown name.
        DeviceError: what was asked for is not there, and nothing less is allowed.
    """
    kind, _, index = asked.partition(":")
    if asked == "cpu" or (asked == "auto" and _CUDA not in import_onnxruntime().get_available_providers()):
        return Cpu()
    if asked != "auto" and not (kind == "cuda" and (index.isdecimal() or asked == "cuda")):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {asked!r}")
    if asked == "auto" and activation_dtype != "float16":
        return Cpu(f"auto: CUDA has attention in float16 only, and this precision computes in {activation_dtype}")
    try:
        return Cuda(int(index or 0), allow_fallback=allow_fallback)
    except DeviceError as error:
        if asked == "auto" or allow_fallback:
            return Cpu(str(error))
        raise


class Cpu:
    """onnxruntime's own kernels; buffers are arrays of this process."""

    name = "cpu"

    def __init__(self, reason: str | None = None):
        """`reason`: why this is not what was asked for."""
        self.notes = [] if reason is None else [f"running on the CPU: {reason}"]

    def open(self, path: str, options: Any, *, captures: bool) -> onnxruntime.InferenceSession:
        """See `Device`."""
        return import_onnxruntime().InferenceSession(path, options, providers=["CPUExecutionProvider"])

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
    """Memory of this process, taken page by page as rows are written: a stream grows with its context."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype):
        self.array = lazy_zeros(shape, dtype)
        self.shape, self.dtype, self.nbytes = self.array.shape, self.array.dtype, self.array.nbytes

    def read(self, rows: int | None = None) -> np.ndarray:
        """See `Buffer`; a view."""
        return self.array[:, :, :rows]

    def write(self, values: np.ndarray) -> None:
        """See `Buffer`."""
        self.array[:, :, : values.shape[2]] = values

    def move_rows(self, keep: int) -> None:
        """See `Buffer`."""
        self.array[:, :, :keep] = self.array[:, :, self.shape[2] - keep :].copy()


class HostBinding:
    """Arrays are bound without a copy."""

    reusable = False  # new buffers cost nothing, and used ones keep their memory

    def __init__(self, session: onnxruntime.InferenceSession):
        self.buffers: dict[str, Buffer] = {}
        self._session, self._io = session, session.io_binding()

    def hold(self, past: str, present: str, shape: Sequence[int], dtype: np.dtype) -> HostBuffer:
        """See `Binding`."""
        self.buffers[past] = buffer = HostBuffer(shape, dtype)
        value = import_onnxruntime().OrtValue.ortvalue_from_numpy(buffer.array)  # shares the array's memory
        self._io.bind_ortvalue_input(past, value)
        self._io.bind_ortvalue_output(present, value)
        return buffer

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """See `Binding`."""
        for name, array in feeds.items():
            self._io.bind_cpu_input(name, array)
        self._io.bind_output(fetch, "cpu")
        self._session.run_with_iobinding(self._io)
        return self._io.get_outputs()[-1].numpy()  # the buffers were bound before


class Cuda:
    """One CUDA device."""

    records = True  # False runs every call anew: tests and benchmarks compare

    def __init__(self, index: int = 0, *, allow_fallback: bool = False):
        """Load the provider and see that it runs.

        Raises:
            DeviceError: with what is missing.
        """
        self.name, self.index, self.notes, self.allow_fallback = f"cuda:{index}", index, [], allow_fallback
        self.lock, self.recording_ids = Lock(), count(1)
        ort = import_onnxruntime()
        if _CUDA not in ort.get_available_providers():
            raise DeviceError(f"{self.name}: this onnxruntime {ort.__version__} has no CUDA; run:\n  {_INSTALL_GPU}")
        self._free_at_first = self.free_memory()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            ort.preload_dlls()
        try:
            self.move_session(np.dtype(np.float16), 2, 1)
        except DeviceError as error:
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
                path, options, providers=[(_CUDA, settings)], enable_fallback=False
            )
        if _CUDA not in session.get_providers():
            raise DeviceError("the CUDA provider does not load")
        on_cpu = Counter(
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != _CUDA
            for node in part.get_nodes()
        )
        if on_cpu:
            kinds = ", ".join(f"{number} {operator}" for operator, number in sorted(on_cpu.items()))
            note = f"{path}: {on_cpu.total()} nodes have no CUDA kernel and run on the CPU: {kinds}"
            if not self.allow_fallback:
                raise DeviceError(f"{note}; choose --precision q4f16 or fp16, --device cpu or --allow-fallback")
            self.notes.append(note)
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

    @cache  # noqa: B019  a device has a few of them and lives as long as they do
    def move_session(self, dtype: np.dtype, capacity: int, keep: int) -> onnxruntime.InferenceSession:
        """A session that moves the rows of one kind of buffer."""
        options = import_onnxruntime().SessionOptions()
        options.log_severity_level = 4
        return self.open(move_rows_model(dtype, capacity, keep), options, captures=False)

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
        self.device, self.value = device, device.put(np.zeros(self.shape, dtype))

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
        session = self.device.move_session(self.dtype, self.shape[2], keep)
        binding = session.io_binding()
        binding.bind_ortvalue_input("past", self.value)
        binding.bind_ortvalue_output("present", self.value)
        session.run_with_iobinding(binding)


class CudaBinding:
    """Inputs at fixed addresses, updated in place; short calls of a session that captures are replayed as CUDA graphs.

    A shape's first call lets onnxruntime allocate the output, which later ones write to. The second is recorded, for
    which onnxruntime repeats it.
    """

    reusable = True  # recordings hold these addresses and last as long as the session

    def __init__(self, device: Cuda, session: onnxruntime.InferenceSession):
        self.buffers: dict[str, Buffer] = {}
        self._device, self._session, self._io = device, session, session.io_binding()
        self._captures = session.get_provider_options()[_CUDA]["enable_cuda_graph"] == "1"
        self._bound: dict[str, Any] = {}
        self._inputs: dict[tuple, tuple[np.ndarray, Any]] = {}  # name and shape: what it holds, where
        self._outputs: dict[tuple, Any] = {}  # by name and the shapes of all inputs
        self._run_options: dict[tuple, Any] = {}  # by recorded call; of all others under ()

    def hold(self, past: str, present: str, shape: Sequence[int], dtype: np.dtype) -> CudaBuffer:
        """See `Binding`."""
        self.buffers[past] = buffer = CudaBuffer(self._device, shape, dtype)
        self._io.bind_ortvalue_input(past, buffer.value)
        self._io.bind_ortvalue_output(present, buffer.value)
        return buffer

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """See `Binding`.

        Raises:
            DeviceError: the device's memory is full.
        """
        for name, array in feeds.items():
            self._feed(name, array)
        call = (fetch, *(array.shape for array in feeds.values()))
        output = self._outputs.get(call)
        if output is None:
            self._io.bind_output(fetch, "cuda", self._device.index)
            self._bound[fetch] = None
        elif self._bound[fetch] is not output:
            self._io.bind_ortvalue_output(fetch, output)
            self._bound[fetch] = output
        with self._device.lock, out_of_memory_is_said(self._device.name):  # recorded sessions run one call at a time
            self._session.run_with_iobinding(self._io, self._options(call, feeds["cos"].shape[1], output is None))
        if output is None:
            output = self._outputs[call] = self._io.get_outputs()[-1]  # the buffers were bound before
        return output.numpy()

    def _feed(self, name: str, array: np.ndarray) -> None:
        held = self._inputs.get((name, array.shape))
        if held is None:
            array = np.ascontiguousarray(array)
            on_host = name in _READ_BY_THE_HOST
            value = import_onnxruntime().OrtValue.ortvalue_from_numpy(array) if on_host else self._device.put(array)
        else:
            previous, value = held
            if not np.array_equal(previous, array):
                value.update_inplace(np.ascontiguousarray(array))
        self._inputs[name, array.shape] = array, value
        if self._bound.get(name) is not value:
            self._io.bind_ortvalue_input(name, value)
            self._bound[name] = value

    def _options(self, call: tuple, rows: int, is_first: bool) -> Any:
        """What says whether this call is recorded and replayed, and as which."""
        if not self._captures:
            return None
        records = self._device.records and not is_first and rows <= _MAX_RECORDED_ROWS
        key = call if records else ()
        if key not in self._run_options:
            options = self._run_options[key] = import_onnxruntime().RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(next(self._device.recording_ids)) if records else "-1")
        return self._run_options[key]


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


def lazy_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Zeros whose memory is taken page by page when written.

    NumPy asks for huge pages, and 2 MiB for the first row of every head of every layer are 0.7 GB of the 4B model.
    """
    memory = mmap.mmap(-1, max(1, prod(shape) * dtype.itemsize))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)
