"""A CUDA device, in whose memory the caches of streams stay between calls."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from math import inf
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DeviceError
from .base import (
    CUDA,
    Buffer,
    account_for_nodes,
    import_onnxruntime,
    run_errors_are_said,
)
from .cuda_binding import CudaBinding, CudaBuffer
from .helper_graphs import TOGETHER, helper_graph
from .turns import Turns

if TYPE_CHECKING:
    import onnxruntime

_INSTALL_GPU = "pip uninstall -y onnxruntime && pip install 'voxtral-onnx[gpu]'"
_CUDA_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]' nvidia-cublas"


class Cuda:
    """A CUDA device."""

    captures_calls = True  # tests and benchmarks set False to compare
    supports_batching = True
    overlaps = True
    encoder_calls, calls_between_shifts = (32, 64, 128, 256), 2  # each is captured once
    call_tokens = inf  # so that calls have few shapes; tokens are cheap
    place = "cuda"  # onnxruntime's name of its memory

    def __init__(self, index: int = 0, *, allow_fallback: bool = False):
        """Load the provider, and check that it runs.

        Args:
            index: number of the device.
            allow_fallback: run nodes without a CUDA kernel on the CPU, with a note.

        Raises:
            DeviceError: there is no such device, or a driver or library is missing.
        """
        self.name, self.index, self.notes = f"cuda:{index}", index, []
        self.turns, self.capture_ids, self._allows_cpu = Turns(), count(1), allow_fallback
        self._helpers: dict[str, onnxruntime.InferenceSession] = {}
        self.locks: dict[int, Lock] = {}  # by the id of a session
        ort = import_onnxruntime()
        if CUDA not in ort.get_available_providers():
            raise DeviceError(
                f"{self.name}: this onnxruntime {ort.__version__} has no CUDA; "
                f"run:\n  {_INSTALL_GPU}"
            )
        ort.set_default_logger_severity(3)  # or every session warns that CUDA is not a plug-in
        self._free_at_first = self.free_memory()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            ort.preload_dlls()
        try:
            self.zeros((1,), np.dtype(np.float16))
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            reasons = "; ".join(
                filter(None, (_library_error(ort), *printed.getvalue().splitlines(), str(error)))
            )
            raise DeviceError(
                f"{self.name}: {reasons}; CUDA's libraries come with:\n  {_CUDA_LIBRARIES}"
            ) from error

    def open(
        self, path: str | bytes, options: Any, *, captures: bool
    ) -> onnxruntime.InferenceSession:
        """Open a session whose nodes all run on this device.

        Raises:
            DeviceError: the provider does not load, its memory is full, or it has no kernel for
                some of the nodes.
        """
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        settings = {
            "device_id": str(self.index),
            "use_tf32": "0",  # full precision in float32
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(captures)),
        }
        with run_errors_are_said(self.name):
            session = import_onnxruntime().InferenceSession(
                path, options, providers=[(CUDA, settings)], enable_fallback=False
            )
        if CUDA not in session.get_providers():
            raise DeviceError("the CUDA provider does not load")
        account_for_nodes(session, CUDA, path, self.notes if self._allows_cpu else None)
        return session

    def bind(self, session: onnxruntime.InferenceSession) -> CudaBinding:
        """Return a binding for one stream's calls of a session."""
        return CudaBinding(self, session)

    def captures(self, session: onnxruntime.InferenceSession) -> bool:
        """Return whether calls of a session are captured as CUDA graphs."""
        return session.get_provider_options()[CUDA]["enable_cuda_graph"] == "1"

    def buffer(self, values: np.ndarray) -> CudaBuffer:
        """Return a new buffer with these values."""
        buffer = CudaBuffer(self, values.shape, values.dtype)
        buffer.write(values)
        return buffer

    def batch_rows(self, count: int, slots: int) -> int:
        """Return one of few numbers, because a call of each is captured."""
        step = 64 if count > 64 else 1 << (count - 1).bit_length()
        return min(slots, -(-count // step) * step)

    def free_memory(self) -> int:
        """Return the free bytes of the device's memory."""
        return _free_memory(self.index)

    def release_memory(self) -> None:
        """Give back memory of buffers that nobody holds any more, which onnxruntime has kept."""
        options = import_onnxruntime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{self.index}")
        for dtype in (np.dtype(np.float16), np.dtype(np.float32)):
            if helper_graph("zeros", dtype) in self._helpers:
                self.zeros((1,), dtype, options)

    def taken_memory(self) -> int:
        """Return the bytes of its memory that were taken since it was opened."""
        return self._free_at_first - self.free_memory()

    def _helper(self, name: str, dtype: np.dtype, count: int = 1) -> onnxruntime.InferenceSession:
        """Return the session of a graph from helper_graphs.py, opened on first use."""
        if (path := helper_graph(name, dtype, count)) not in self._helpers:
            options = import_onnxruntime().SessionOptions()
            options.log_severity_level = 4
            with self.turns.shared():  # a new session allocates
                self._helpers[path] = self.open(path, options, captures=False)
        return self._helpers[path]

    def zeros(
        self, shape: Sequence[int], dtype: np.dtype, options: Any = None
    ) -> onnxruntime.OrtValue:
        """Return zeros in the device's memory; `options` are onnxruntime's for the call.

        They are the output of a graph, because a session allocates exactly their size, while
        OrtValue rounds it up.

        Raises:
            DeviceError: the memory is full.
        """
        session = self._helper("zeros", dtype)
        binding = session.io_binding()
        binding.bind_cpu_input("shape", np.array(shape, np.int64))
        binding.bind_output("zeros", self.place, self.index)
        return self._run_helper(session, binding, options)

    def shift_all(self, buffers: Sequence[Buffer], keep: int) -> None:
        """Copy the last `keep` rows along the third axis of each buffer's slots to the front."""
        for part in _parts(buffers):
            start = np.array([part[0].shape[2] - keep], np.int64)
            self._run_together("shift", part, "past", "present", feeds={"start": start})

    def copy_all(self, sources: Sequence[Buffer], targets: Sequence[Buffer], rows: int) -> None:
        """Copy the first rows, or all, without moving them through the CPU's memory."""
        for part, copied in zip(_parts(targets), _parts(sources), strict=True):
            if part[0].shape == copied[0].shape:
                self._run_together("copy", part, None, "copy", values=copied)
            elif rows:
                self._run_together("copy_rows", part, "past", "present", rows=copied)

    def _run_together(
        self,
        name: str,
        buffers: Sequence[CudaBuffer],
        past: str | None,
        present: str,
        *,
        feeds: Mapping[str, np.ndarray] = MappingProxyType({}),
        **sources: Sequence[CudaBuffer],
    ) -> None:
        """Run a graph that writes several buffers.

        Args:
            name: of the graph for one buffer.
            buffers: to write, as many as a graph takes.
            past: name of its input that is bound to them; None for none.
            present: name of its output that is bound to them.
            feeds: inputs that stay on the CPU.
            sources: buffers that are read, by the name of the input.
        """
        session = self._helper(name, buffers[0].dtype, len(buffers))
        binding = session.io_binding()
        for input_name, values in feeds.items():
            binding.bind_cpu_input(input_name, values)
        for i, buffer in enumerate(buffers):
            number = f"_{i}" if len(buffers) > 1 else ""
            buffer.bind(binding, past and past + number, present + number)
            for input_name, read in sources.items():
                read[i].bind(binding, input_name + number)
        self._run_helper(session, binding)

    def copy_rows(self, rows: np.ndarray, target: CudaBuffer) -> None:
        """Copy rows along the third axis to the first ones of a buffer that has more."""
        session = self._helper("copy_rows", target.dtype)
        binding = session.io_binding()
        binding.bind_cpu_input("rows", np.ascontiguousarray(rows))
        target.bind(binding, "past", "present")
        self._run_helper(session, binding)

    def read(self, buffer: CudaBuffer) -> np.ndarray:
        """Return a buffer's values in the CPU's memory."""
        session = self._helper("copy", buffer.dtype)
        binding = session.io_binding()
        buffer.bind(binding, "values")
        binding.bind_output("copy", "cpu")
        return self._run_helper(session, binding).numpy()

    def _run_helper(
        self, session: onnxruntime.InferenceSession, binding: Any, options: Any = None
    ) -> onnxruntime.OrtValue:
        # Nothing may be allocated while another thread captures a call
        with self.turns.shared(), run_errors_are_said(self.name):
            session.run_with_iobinding(binding, options)
        return binding.get_outputs()[0]

    def put(self, array: np.ndarray) -> onnxruntime.OrtValue:
        """Copy an array to the device's memory.

        Raises:
            DeviceError: the memory is full.
        """
        with self.turns.shared(), run_errors_are_said(self.name):
            return import_onnxruntime().OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(array), self.place, self.index
            )


def _parts(buffers: Sequence[Buffer]) -> Iterator[list[CudaBuffer]]:
    """Yield buffers in parts of as many as a graph for several takes, and those left one by one."""
    left = [buffer for buffer in buffers if isinstance(buffer, CudaBuffer)]
    for size in TOGETHER:
        while len(left) >= size:
            yield left[:size]
            left = left[size:]


def _free_memory(index: int) -> int:
    """Return the free bytes of a CUDA device's memory.

    Raises:
        DeviceError: there is no driver or no such device.
    """
    # Load the driver
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"cuda:{index}: no NVIDIA driver ({error})") from error

    def call(function: str, *arguments: Any) -> None:
        if code := getattr(driver, function)(*arguments):
            raise DeviceError(
                f"cuda:{index}: the NVIDIA driver's {function} failed with code {code}"
            )

    # Ask it about the device
    number, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(number))
    if index >= number.value:
        raise DeviceError(
            f"cuda:{index}: this machine has {number.value} CUDA device(s), from cuda:0"
        )
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)  # kept, as onnxruntime needs it
    call("cuCtxPushCurrent_v2", context)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    call("cuCtxPopCurrent_v2", ctypes.byref(context))
    return free.value


def _library_error(ort: Any) -> str | None:
    """Return the error of loading the CUDA provider's libraries, or None if they load."""
    for name in ("shared", "cuda"):
        for path in (Path(ort.__file__).parent / "capi").glob(f"*onnxruntime_providers_{name}.*"):
            try:
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            except OSError as error:
                return str(error)
    return None
