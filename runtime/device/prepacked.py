"""Weights as this machine's kernels pack them, saved for later processes.

These map the weights instead of packing them again.

A saved graph loads faster, and its weights are pages of a file: processes share them, and the
system can drop them. It takes twice the artifact's disk and serves one build of onnxruntime on one
kind of processor; both are in its name.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...errors import StorageError
from ...manifest import GraphSpec, Manifest
from .base import SILENT, import_onnxruntime

_DATA = "weights.data"


def prepacked_folder(manifest: Manifest, graph: GraphSpec, cache: Path) -> Path:
    """Return where the saved form of a graph is in the folder `cache`, once it has been made."""
    hashes = [manifest.files[name].sha256 for name in graph.files]
    facts = " ".join([*hashes, import_onnxruntime().__version__, _processor()])
    return cache / f"{Path(graph.path).stem}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def prepacked_graph(manifest: Manifest, artifact: Path, graph: GraphSpec, cache: Path) -> Path:
    """Return the saved form of a graph in the folder `cache`, made now where it is missing.

    Raises:
        StorageError: it cannot be written.
    """
    folder = prepacked_folder(manifest, graph, cache)
    if folder.is_dir():
        return folder / "model.onnx"
    ort = import_onnxruntime()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=cache))
        try:
            _save(ort, artifact / graph.path, partial / "model.onnx")
            if not folder.is_dir():  # another process may have been first
                partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{cache}: cannot be written ({error.strerror or error})") from error
    return folder / "model.onnx"


def _save(ort: Any, graph: Path, path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.optimized_model_filepath = str(path)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": _DATA,
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    try:
        ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        raise StorageError(
            f"{path.parent}: onnxruntime cannot save the packed weights ({error})"
        ) from error


def _processor() -> str:
    """Return what the packing depends on: the architecture and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags}"
