"""What a device, its bindings and its buffers are; onnxruntime itself, imported late.

onnxruntime replaces a provider that does not load, and a kernel that is not there, by the CPU
without an error; nothing here does unless it was allowed to.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...errors import DeviceError

if TYPE_CHECKING:
    import onnxruntime

CUDA, WEBGPU = "CUDAExecutionProvider", "WebGpuExecutionProvider"
# For onnxruntime's log, which quotes the names of nodes as they are; its errors are raised as well
SILENT = 4
# On the CPU by choice
_SHAPE_OPERATORS = {"Concat", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze"}
_OUT_OF_MEMORY = (
    "out of memory",
    "OutOfMemory",
    "Failed to allocate",
    "is smaller than requested bytes",
)


_INSTALL = "pip install 'voxtral-onnx[cpu]'   # or 'voxtral-onnx[gpu]' for CUDA"
# The contrib operators' contracts that the graphs were checked against begin here
MIN_ONNXRUNTIME = (1, 30)


def import_onnxruntime():
    """Return the onnxruntime module.

    Raises:
        DeviceError: none of its wheels is installed, or one that is too old, or both, which
            overwrite each other.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if is_installed(name)]
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
    if sys.platform == "win32":  # where it reports through the system, and reads no variable
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def is_installed(distribution: str) -> bool:
    """Tell whether a distribution is installed."""
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
        """Return its values, or the first rows along the third axis."""
        ...

    def write(self, values: np.ndarray) -> None:
        """Replace the values, or those of the first rows along the third axis."""
        ...

    def copy_from(self, other: Buffer, rows: int) -> None:
        """Copy the first rows along the third axis of a buffer of the same binding."""
        ...

    def shift(self, keep: int) -> None:
        """Shift the last `keep` rows to the front."""
        ...


class Binding(Protocol):
    """The inputs and outputs of one session for one stream."""

    buffers: dict[str, Buffer]  # by the input's name
    reusable: bool  # by another stream after this one

    def bind_state(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> Buffer:
        """Bind a buffer of zeros as the input `past` and the output `present` of every call.

        `appends`: calls write behind the rows they read, so that one repeated does the same again.
        """
        ...

    def slice_batch(self, first: int, last: int) -> Binding:
        """Return a binding of the session to these slots of the same buffers."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """Run a call and return one output."""
        ...


class Device(Protocol):
    """Where sessions run."""

    name: str  # as `--device` takes it
    notes: list[str]  # what differs from what was asked for
    supports_batching: bool  # a binding may hold a batch of streams that advance together

    def open(
        self, path: str | bytes, options: Any, *, captures: bool
    ) -> onnxruntime.InferenceSession:
        """Open a session all of whose nodes run here.

        `captures`: calls with equal shapes are captured and replayed where the device can do that.
        """
        ...

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """Return a binding for one stream's calls of a session."""
        ...

    def free_memory(self) -> int | None:
        """Return the bytes free where the buffers are, None for the machine's memory."""
        ...

    def taken_memory(self) -> int:
        """Return the bytes that are no longer free there since the device was opened.

        0 for the machine's memory.
        """
        ...


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
def run_errors_are_said(name: str) -> Iterator[None]:
    """Raise a DeviceError where onnxruntime finds a device's memory full, or cannot go on."""
    try:
        yield
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            reason = str(error).splitlines()[0][:300]
            raise DeviceError(
                f"{name}: onnxruntime cannot run the model ({reason}); check its files: "
                "voxtral-onnx inspect --check, and run: voxtral-onnx doctor"
            ) from error
        raise DeviceError(
            f"{name}: out of memory; a smaller --context, fewer streams or another --precision "
            "take less"
        ) from error
