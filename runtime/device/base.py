"""The interfaces of devices, bindings and buffers, and the late import of onnxruntime.

If a provider does not load, or has no kernel for a node, onnxruntime uses the CPU without an error.
Here this is an error, unless the caller has allowed it.
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
from ...manifest import GraphSpec

if TYPE_CHECKING:
    import onnxruntime

CUDA, WEBGPU = "CUDAExecutionProvider", "WebGpuExecutionProvider"
# Level of onnxruntime's log that is never reached. The log would print names from the graph without
# escaping them, and its errors are raised as well.
SILENT = 4
# Operators on shapes, which onnxruntime runs on the CPU on purpose
_SHAPE_OPERATORS = {"Concat", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze"}
_OUT_OF_MEMORY = (
    "out of memory",
    "OutOfMemory",
    "Failed to allocate",
    "is smaller than requested bytes",
)

# How the message of a call with bound inputs begins, whose error is a plain RuntimeError
_FAILED_CALL = "Error in execution: "

# Commands and versions for messages
_INSTALL = "pip install 'voxtral-onnx[cpu]'   # or 'voxtral-onnx[gpu]' for CUDA"
# The oldest version whose contrib operators work as the graphs need them
MIN_ONNXRUNTIME = (1, 30)
# The oldest whose attention takes several streams that bring different numbers of positions
MIN_FOR_LENGTHS, LENGTHS = (1, 32), "query_seqlens"
# An operator: a graph that has it loads nowhere else, and needs this version
ONLY_ON_CUDA, MIN_FOR_PAGES = "PagedAttention", (1, 31)


def import_onnxruntime():
    """Import onnxruntime, with its usage reports turned off, and return the module.

    Raises:
        DeviceError: neither of its packages is installed, or one that is too old, or both, which
            overwrite each other's files.
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
    if _version_of(onnxruntime) < MIN_ONNXRUNTIME:
        raise DeviceError(f"{_too_old(onnxruntime, MIN_ONNXRUNTIME)}; run:\n  {_INSTALL}")
    if sys.platform == "win32":  # where no environment variable turns the reports off
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def lacks_lengths(graph: GraphSpec) -> str | None:
    """Return why onnxruntime is too old for a graph; None if it is new enough.

    It is if the graph needs no lengths of several streams, or its attention knows them.

    Raises:
        DeviceError: as `import_onnxruntime`.
    """
    onnxruntime = import_onnxruntime()
    needs_them = any(tensor.name == LENGTHS for tensor in graph.inputs)
    least = MIN_FOR_PAGES if ONLY_ON_CUDA in graph.operators else MIN_FOR_LENGTHS
    if not needs_them or _version_of(onnxruntime) >= least:
        return None
    return _too_old(onnxruntime, least)


def _version_of(onnxruntime: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


def _too_old(onnxruntime: Any, least: tuple[int, ...]) -> str:
    needed = ".".join(map(str, least))
    return f"onnxruntime {onnxruntime.__version__}: needed is {needed} or newer"


def is_installed(distribution: str) -> bool:
    """Return whether a distribution, that is, a package as pip names it, is installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


class Buffer(Protocol):
    """An array in a device's memory, which calls of a session read and write."""

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int

    def read(self, rows: int | None = None) -> np.ndarray:
        """Return the values, or those of the first `rows` rows along the third axis."""
        ...

    def write(self, values: np.ndarray) -> None:
        """Replace the values of the first rows along the third axis, as many as there are."""
        ...

    def copy_from(self, other: Buffer, rows: int) -> None:
        """Copy the first `rows` rows along the third axis from a buffer of the same shape.

        A buffer that has only so many rows may have another shape otherwise equal.
        """
        ...

    def shift(self, keep: int) -> None:
        """Copy the last `keep` rows along the third axis to the front."""
        ...


class Binding(Protocol):
    """The inputs and outputs of one session for one stream or one batch of streams."""

    buffers: dict[str, Buffer]  # by the name of the input
    reusable: bool  # whether another stream should use it after this one

    def bind_state(
        self, past: str, present: str, shape: Sequence[int], dtype: np.dtype, *, appends: bool
    ) -> Buffer:
        """Bind a new buffer of zeros as the input `past` and the output `present` of every call.

        Args:
            past: name of the input.
            present: name of the output.
            shape: of the buffer.
            dtype: of the buffer.
            appends: whether calls only write rows behind those that they read, so that a repeated
                call has the same result.
        """
        ...

    def slice_batch(self, first: int, last: int) -> Binding:
        """Return a binding to the slots from `first` to before `last` of the same buffers."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """Run a call with the inputs `feeds`, and return the output `fetch`.

        Raises:
            DeviceError: the device's memory is full, or onnxruntime cannot run the graph.
        """
        ...


class Device(Protocol):
    """A processor on which sessions run: the CPU or a GPU."""

    name: str  # as `--device` takes it
    notes: list[str]  # sentences about what differs from the request
    supports_batching: bool  # whether a call may advance several streams
    overlaps: bool  # whether two threads gain by calling two sessions at a time
    # Tokens of an encoder call for a recording, rising: all have the last size, but the last call
    # of a recording is padded to one of them
    encoder_calls: tuple[int, ...]
    calls_between_shifts: int  # of the encoder's cache of a recording
    # What a call costs for several live streams besides their tokens, in tokens
    call_tokens: float

    def open(
        self, path: str | bytes, options: Any, *, captures: bool
    ) -> onnxruntime.InferenceSession:
        """Open a session whose nodes all run on this device.

        Args:
            path: of the ONNX file, or its content.
            options: onnxruntime's SessionOptions.
            captures: whether to record calls and replay those with equal shapes, if the device can
                do that (CUDA graphs).
        """
        ...

    def bind(self, session: onnxruntime.InferenceSession) -> Binding:
        """Return a binding for one stream's calls of a session."""
        ...

    def buffer(self, values: np.ndarray) -> Buffer:
        """Return a new buffer with these values, [batch, heads, rows, size]."""
        ...

    def copy_all(self, sources: Sequence[Buffer], targets: Sequence[Buffer], rows: int) -> None:
        """Copy the first `rows` rows of each source as `Buffer.copy_from` does."""
        ...

    def shift_all(self, buffers: Sequence[Buffer], keep: int) -> None:
        """Shift buffers as `Buffer.shift` does."""
        ...

    def batch_rows(self, count: int, slots: int) -> int:
        """Return how many of `slots` slots a call runs that is to advance the first `count`."""
        ...

    def free_memory(self) -> int | None:
        """Return the free bytes of the device's own memory; None if it has none."""
        ...

    def release_memory(self) -> None:
        """Give back memory of buffers that nobody holds any more."""
        ...

    def taken_memory(self) -> int:
        """Return the bytes of its own memory that were taken since it was opened, or 0."""
        ...


class OneByOne:
    """A device whose buffers are copied and shifted one by one."""

    def copy_all(self, sources: Sequence[Buffer], targets: Sequence[Buffer], rows: int) -> None:
        """Copy the first rows of each source."""
        for source, target in zip(sources, targets, strict=True):
            target.copy_from(source, rows)

    def shift_all(self, buffers: Sequence[Buffer], keep: int) -> None:
        """Copy the last `keep` rows of each buffer to its front."""
        for buffer in buffers:
            buffer.shift(keep)


def account_for_nodes(
    session: onnxruntime.InferenceSession, provider: str, path: str | bytes, notes: list[str] | None
) -> None:
    """Find nodes of a session for which its provider has no kernel, and note or refuse them.

    Operators on shapes are no reason to do either.

    Args:
        session: to look at.
        provider: on which all nodes should run.
        path: of the graph, for messages.
        notes: gets a sentence about such nodes; None refuses them.

    Raises:
        DeviceError: there are such nodes, and `notes` is None.
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
    """Turn onnxruntime's errors in the context into ones with advice.

    Raises:
        DeviceError: the device's memory is full, or onnxruntime cannot run the graph.
    """
    try:
        yield
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            is_its_own = type(error).__module__.startswith("onnxruntime")
            if not is_its_own and not str(error).startswith(_FAILED_CALL):
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
