"""onnxruntime sessions that are held to the manifest's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ArtifactError, DeviceError, UsageError
from ..manifest import GraphSpec, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

    from .cache import KVCache

_PROVIDERS = {"cpu": "CPUExecutionProvider"}
_INSTALL = "pip install 'voxtral-onnx[cpu]'   # or 'voxtral-onnx[gpu]' for CUDA"
_ONNX_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
}


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


def resolve_device(device: str) -> str:
    """The device that `auto` stands for, or the one that was asked for.

    Raises:
        UsageError: an unknown name.
    """
    if device == "auto":
        return "cpu"
    if device not in _PROVIDERS:
        raise UsageError(f"device: expected auto or one of {list(_PROVIDERS)}, got {device!r}")
    return device


class Session:
    """One graph of an artifact, loaded and checked."""

    def __init__(
        self, folder: Path, graph: GraphSpec, device: str, threads: int | None = None, *, path: Path | None = None
    ):
        """Load a graph by path, so that its weights are mapped; `path` names another form of the same graph.

        Raises:
            ArtifactError: the file does not load, or its inputs or outputs are not the manifest's.
            DeviceError: onnxruntime is missing.
        """
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # 2x slower on a busy machine
        if "MatMulNBits" in graph.operators:
            # Half the load time on two cores. Codes stay mapped pages until all are packed; floats would stand in
            # memory twice.
            options.add_session_config_entry("session.prepack.enable_parallel", "1")
        if threads:
            options.intra_op_num_threads = threads
        self.graph, self.ort = graph, _load(ort, path or folder / graph.path, graph, options, device)

    def run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The first output of a graph without state."""
        return np.asarray(self.ort.run(None, feeds)[0])

    def step(self, cache: KVCache, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        """Run the next rows of a cache, whose buffers are bound as past and present; one output comes back.

        Feeds must hold what `cache.positions` gave for these rows; the cache advances by as many.
        """
        for name, array in feeds.items():
            cache.binding.bind_cpu_input(name, array)
        cache.binding.bind_output(fetch, "cpu")
        self.ort.run_with_iobinding(cache.binding)
        cache.advance(feeds["cos"].shape[1])
        return cache.binding.get_outputs()[-1].numpy()  # the buffers were bound before


def check_graph(folder: Path, graph: GraphSpec) -> None:
    """Compare a graph's inputs and outputs with the manifest, without preparing its weights.

    Raises:
        ArtifactError: the file does not load, or its inputs or outputs are others.
        DeviceError: onnxruntime is missing.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    _load(ort, folder / graph.path, graph, options, "cpu")


def _load(ort, path: Path, graph: GraphSpec, options, device: str) -> onnxruntime.InferenceSession:
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=[_PROVIDERS[device]])
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        raise ArtifactError(f"{path}: onnxruntime cannot load it ({error}); export again") from error
    _check_contract(path, "input", session.get_inputs(), graph.inputs)
    _check_contract(path, "output", session.get_outputs(), graph.outputs)
    return session


def _check_contract(
    path: Path, kind: str, found: Sequence[onnxruntime.NodeArg], expected: Sequence[TensorSpec]
) -> None:
    have = {arg.name: (arg.type, len(arg.shape)) for arg in found}
    want = {spec.name: (_ONNX_TYPES.get(spec.dtype, spec.dtype), len(spec.shape)) for spec in expected}
    if have != want:
        name = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))[0]
        raise ArtifactError(
            f"{path}: {kind} '{name}': expected {want.get(name, 'none')} as in the manifest, "
            f"got {have.get(name, 'none')}; export again"
        )
