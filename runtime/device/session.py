"""onnxruntime sessions whose inputs and outputs are compared with the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ArtifactError, DeviceError
from ...manifest import GraphSpec, TensorSpec
from .base import SILENT, Binding, Device, import_onnxruntime, run_errors_are_said
from .cpu import Cpu
from .open import open_device

if TYPE_CHECKING:
    import onnxruntime

    from .cache import KVCache

_ONNX_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
}


class Session:
    """A loaded graph of an artifact."""

    def __init__(
        self,
        folder: Path,
        graph: GraphSpec,
        device: Device | str,
        threads: int | None = None,
    ):
        """Load a graph.

        Args:
            folder: of the artifact.
            graph: the manifest's entry.
            device: on which it runs, or its name.
            threads: of onnxruntime; None for one per core.

        Raises:
            ArtifactError: the file does not load, or its inputs or outputs differ from the
                manifest.
            DeviceError: onnxruntime is missing, or the device cannot run the whole graph.
        """
        options = import_onnxruntime().SessionOptions()
        # Threads that spin make it half as fast on a busy machine
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if "MatMulNBits" in graph.operators:
            # Halves the time to load on two cores. Memory has room for it, because quantised
            # weights stay mapped from their file until they are packed; floats would be in memory
            # twice.
            options.add_session_config_entry("session.prepack.enable_parallel", "1")
        if threads:
            options.intra_op_num_threads = threads
        self.graph, self.device = graph, open_device(device) if isinstance(device, str) else device
        self.ort = _load(folder / graph.path, graph, options, self.device)
        self._idle: dict[int, list[Binding]] = {}  # by the rows of their buffers

    def acquire(self, capacity: int) -> Binding:
        """Return a binding that ended streams have released, or a new one."""
        try:
            return self._idle[capacity].pop()
        except LookupError:  # none, or another thread was first
            return self.device.bind(self.ort)

    def release(self, binding: Binding, capacity: int) -> None:
        """Take back a binding, so that other streams can acquire it."""
        if binding.reusable:
            self._idle.setdefault(capacity, []).append(binding)

    def run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run a graph that has no caches, and return its first output."""
        with run_errors_are_said(self.device.name):
            return np.asarray(self.ort.run(None, feeds)[0])

    def step(self, cache: KVCache, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """Run a call for the next rows of a cache, and return one output.

        Args:
            cache: of a stream; it advances by these rows.
            feeds: inputs by name, with those that `cache.positions` returns for these rows.
            fetch: name of the output.

        Raises:
            DeviceError: the device's memory is full, or onnxruntime cannot run the graph.
        """
        output = cache.binding.run(feeds, fetch)
        cache.advance(feeds["cos"].shape[1])
        return output


def check_graph(folder: Path, graph: GraphSpec) -> None:
    """Compare a graph's inputs and outputs with the manifest, without optimising or packing it.

    Raises:
        ArtifactError: the file does not load, or its inputs or outputs differ.
        DeviceError: onnxruntime is missing.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    _load(folder / graph.path, graph, options, Cpu())


def _load(path: Path, graph: GraphSpec, options, device: Device) -> onnxruntime.InferenceSession:
    options.log_severity_level = SILENT
    has_caches = any(tensor.name.startswith("past_key_values.") for tensor in graph.inputs)
    try:
        session = device.open(str(path), options, captures=has_caches)
    except DeviceError:
        raise
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        raise ArtifactError(
            f"{path}: onnxruntime cannot load it ({error}); export again"
        ) from error
    _check_contract(path, "input", session.get_inputs(), graph.inputs)
    _check_contract(path, "output", session.get_outputs(), graph.outputs)
    return session


def _check_contract(
    path: Path, kind: str, found: Sequence[onnxruntime.NodeArg], expected: Sequence[TensorSpec]
) -> None:
    have = {arg.name: (arg.type, len(arg.shape)) for arg in found}
    want = {
        spec.name: (_ONNX_TYPES.get(spec.dtype, spec.dtype), len(spec.shape)) for spec in expected
    }
    if have != want:
        name = sorted(
            name for name in have.keys() | want.keys() if have.get(name) != want.get(name)
        )[0]
        raise ArtifactError(
            f"{path}: {kind} '{name}': expected {want.get(name, 'none')} as in the manifest, "
            f"got {have.get(name, 'none')}; export again"
        )
