"""Where graphs run, and how a call's inputs, states and output are bound there: here the CPU.

onnxruntime replaces a provider that does not load, and a kernel that is not there, by the CPU
without an error; nothing here does unless it was allowed to.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import DeviceError, UsageError

if TYPE_CHECKING:
    import onnxruntime

_INSTALL = "pip install 'voxtral-onnx[cpu]'   # or 'voxtral-onnx[gpu]' for CUDA"
# the contrib operators' contracts that the graphs were checked against begin here
MIN_ONNXRUNTIME = (1, 30)
CUDA, WEBGPU = "CUDAExecutionProvider", "WebGpuExecutionProvider"
# on the CPU by choice
_SHAPE_OPERATORS = {"Concat", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze"}
_OUT_OF_MEMORY = (
    "out of memory",
    "OutOfMemory",
    "Failed to allocate",
    "is smaller than requested bytes",
)


def import_onnxruntime():
    """The onnxruntime module.

    Raises:
        DeviceError: none of its wheels is installed, or one that is too old, or both, which
            overwrite each other.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) > 1:
        raise DeviceError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "run:\n"
            f"  pip uninstall -y onnxruntime onnxruntime-gpu\n  {_INSTALL}"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"onnxruntime is not installed ({error}); run:\n  {_INSTALL}") from error
    found = onnxruntime.__version__
    if tuple(int(part) for part in found.split(".")[:2]) < MIN_ONNXRUNTIME:
        least = ".".join(map(str, MIN_ONNXRUNTIME))
        raise DeviceError(f"onnxruntime {found}: needed is {least} or newer; run:\n  {_INSTALL}")
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

    def copy(self, other: Buffer, rows: int) -> None:
        """Take over the first rows along the third axis of a buffer of the same binding."""
        ...

    def move_rows(self, keep: int) -> None:
        """Move the last `keep` rows to the front."""
        ...


class Binding(Protocol):
    """The inputs and outputs of one session for one stream."""

    buffers: dict[str, Buffer]  # by the input's name
    reusable: bool  # by another stream after this one

    def hold(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> Buffer:
        """A buffer of zeros that is the input `past` and then the output `present` of every call.

        `appends`: calls write behind the rows they read, so that one repeated does the same again.
        """
        ...

    def part(self, first: int, last: int) -> Binding:
        """A binding of the session to these parts of the same buffers along the first axis."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """One output of a call."""
        ...


class Device(Protocol):
    """Where sessions run."""

    name: str  # as `--device` takes it
    notes: list[str]  # what differs from what was asked for
    has_rows: bool  # bindings have parts, so that several streams may advance together

    def open(
        self, path: str | bytes, options: Any, *, captures: bool
    ) -> onnxruntime.InferenceSession:
        """A session all of whose nodes run here.

        `captures`: calls with equal shapes are recorded and replayed where the device can do that.
        """
        ...

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """What one stream's calls of a session bind."""
        ...

    def free_memory(self) -> int | None:
        """Bytes free where the buffers are, None for the machine's memory."""
        ...

    def taken_memory(self) -> int:
        """Bytes that are no longer free there since the device was opened.

        0 for the machine's memory.
        """
        ...


def present_devices() -> list[str]:
    """Kinds of devices besides the CPU for which a package is installed.

    Whether they run shows when one is opened.
    """
    found = {
        "cuda": CUDA in import_onnxruntime().get_available_providers(),
        "webgpu": _is_installed("onnxruntime-ep-webgpu"),
    }
    return [kind for kind, is_there in found.items() if is_there]


def open_device(
    asked: str, activation_dtype: str = "float16", *, allow_fallback: bool = False
) -> Device:
    """The device that was asked for.

    `auto` is CUDA where it runs graphs of this type, else the CPU.

    Raises:
        UsageError: an unknown name.
        DeviceError: what was asked for is not there, and nothing less is allowed.
    """
    kind, _, index = asked.partition(":")
    if asked == "cpu" or (
        asked == "auto" and CUDA not in import_onnxruntime().get_available_providers()
    ):
        return Cpu()
    if asked != "auto" and not (
        kind in ("cuda", "webgpu") and (index.isdecimal() or asked == kind)
    ):
        raise UsageError(f"device: expected auto, cpu, cuda, cuda:N or webgpu, got {asked!r}")
    try:
        if kind == "webgpu":
            from .webgpu import WebGpu

            return WebGpu(int(index or 0), activation_dtype, allow_fallback=allow_fallback)
        if activation_dtype != "float16":
            raise DeviceError(
                "CUDA has attention in float16 only, and this precision computes in "
                f"{activation_dtype}; "
                "choose --precision q4f16 or fp16, or --device cpu"
            )
        from .cuda import Cuda

        return Cuda(int(index or 0), allow_fallback=allow_fallback)
    except DeviceError as error:
        if asked == "auto" or allow_fallback:
            return Cpu(str(error))
        raise


def account_for_nodes(
    session: onnxruntime.InferenceSession, provider: str, path: str | bytes, notes: list[str] | None
) -> None:
    """Count a session's nodes that its provider has no kernel for.

    They are allowed where there are notes to say so in.

    Raises:
        DeviceError: with the operators of these nodes, where they are not allowed.
    """
    on_cpu = Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    )
    if not on_cpu.keys() - _SHAPE_OPERATORS:
        return
    kinds = ", ".join(f"{number} {operator}" for operator, number in sorted(on_cpu.items()))
    graph = "graph" if isinstance(path, bytes) else path
    kernels = provider.removesuffix("ExecutionProvider")
    if notes is None:
        raise DeviceError(
            f"{graph}: {on_cpu.total()} nodes have no {kernels} kernel: {kinds}; use --device cpu"
        )
    notes.append(
        f"{graph}: {on_cpu.total()} nodes without a {kernels} kernel run on the CPU: {kinds}"
    )


@contextmanager
def out_of_memory_is_said(name: str) -> Iterator[None]:
    """Raise a DeviceError where onnxruntime finds a device's memory full."""
    try:
        yield
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise DeviceError(
            f"{name}: out of memory; a smaller --context, fewer streams or another --precision "
            "take less"
        ) from error


class Cpu:
    """onnxruntime's own kernels; buffers are arrays of this process."""

    name, has_rows = "cpu", True

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

    def copy(self, other: Buffer, rows: int) -> None:
        """See `Buffer`."""
        self.write(other.read(rows))

    def move_rows(self, keep: int) -> None:
        """See `Buffer`."""
        self.array[:, :, :keep] = self.array[:, :, self.shape[2] - keep :].copy()


class HostBinding:
    """Arrays are bound without a copy."""

    reusable = False  # new buffers cost nothing, and used ones keep their memory

    def __init__(self, session: onnxruntime.InferenceSession):
        self.buffers: dict[str, Buffer] = {}
        self._arrays: dict[tuple[str, str], np.ndarray] = {}  # by the names of input and output
        self._session, self._io = session, session.io_binding()

    def hold(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> HostBuffer:
        """See `Binding`."""
        return self._share(past, present, lazy_zeros(shape, dtype))

    def part(self, first: int, last: int) -> HostBinding:
        """See `Binding`."""
        binding = HostBinding(self._session)
        for (past, present), array in self._arrays.items():
            binding._share(past, present, array[first:last])
        return binding

    def _share(self, past: str, present: str, array: np.ndarray) -> HostBuffer:
        self._arrays[past, present] = array
        self.buffers[past] = buffer = HostBuffer(array)
        # shares the array's memory
        value = import_onnxruntime().OrtValue.ortvalue_from_numpy(buffer.array)
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


def lazy_zeros(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Zeros whose memory is taken page by page when written.

    NumPy asks for huge pages, and 2 MiB for the first row of every head of every layer are 0.7 GB
    of the 4B model.
    """
    memory = mmap.mmap(-1, max(1, prod(shape) * dtype.itemsize))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)
