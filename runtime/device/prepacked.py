"""A cache folder of weights in the layout that this machine's CPU kernels use.

onnxruntime would otherwise convert ("prepack") the weights at every load. A graph that was saved
with packed weights loads faster, and because it is memory-mapped, processes share its pages and the
system can drop them. It takes the artifact's disk space a second time, and works with one build of
onnxruntime on one kind of processor, whose hash is in its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from msgspec import Meta

from ...contents import check_contents
from ...decode import RelativeName, decode, read_within
from ...errors import ArtifactError, StorageError
from ...files import FileSpec, atomic_write, hash_file, make_partial_folder
from ...limits import MANIFEST
from ...manifest import GraphSpec, Manifest
from .base import SILENT, import_onnxruntime

_log = logging.getLogger(__name__)

_GRAPH, _DATA, _CHECKSUMS = "model.onnx", "weights.data", "checksums.json"


@dataclass(frozen=True, slots=True)
class PrepackedGraph:
    """A graph that was saved with packed weights."""

    path: Path
    files: Mapping[Path, FileSpec]  # the graph and its weights, with their hashes

    @property
    def weights(self) -> dict[Path, FileSpec]:
        """Return the files that sessions map into memory, which are all but the graph itself."""
        return {path: file for path, file in self.files.items() if path != self.path}


@dataclass(frozen=True, slots=True)
class _Checksums:
    """The content of `checksums.json`."""

    files: Annotated[Mapping[RelativeName, FileSpec], Meta(max_length=2)]


def prepacked_folder(manifest: Manifest, graph: GraphSpec, cache: Path) -> Path:
    """Return the folder, below `cache`, in which a graph is or will be saved."""
    hashes = [manifest.files[name].sha256 for name in graph.files]
    facts = " ".join([*hashes, import_onnxruntime().__version__, _processor()])
    return cache / f"{Path(graph.path).stem}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def find_prepacked(
    manifest: Manifest, graph: GraphSpec, cache: Path, notes: list[str]
) -> PrepackedGraph | None:
    """Return the saved form of a graph, after comparing its files with their hashes.

    None if there is none. A damaged one is removed, and `notes` gets a sentence.
    """
    folder = prepacked_folder(manifest, graph, cache)
    if not folder.is_dir():
        return None
    try:
        found = _read(folder)
        check_contents(found.files, found.weights, notes=notes)
    except ArtifactError as error:
        reason = str(error).partition(";")[0]
        notes.append(f"saved packed weights are damaged and are made anew: {reason}")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return found


def make_prepacked(
    manifest: Manifest, artifact: Path, graph: GraphSpec, cache: Path
) -> PrepackedGraph:
    """Pack the weights of a graph and save it in the folder `cache`.

    Raises:
        ArtifactError: the artifact's files differ from the manifest.
        StorageError: the folder cannot be written.
    """
    # Check the artifact
    folder = prepacked_folder(manifest, graph, cache)
    check_contents(
        {artifact / name: manifest.files[name] for name in graph.files},
        [artifact / name for name in graph.data],
    )

    # Save to a partial folder, which gets its name when it is complete
    began = perf_counter()
    ort = import_onnxruntime()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial = make_partial_folder(cache)
        try:
            _save(ort, artifact / graph.path, partial / _GRAPH)
            files = {path.name: hash_file(path) for path in sorted(partial.iterdir())}
            text = json.dumps(asdict(_Checksums(files)))
            atomic_write(partial / _CHECKSUMS, text.encode())
            if not folder.is_dir():  # another process may have been first
                partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{cache}: cannot be written ({error.strerror or error})") from error
    _log.info("%s: weights packed and saved in %.1f s", folder, perf_counter() - began)
    return _read(folder)


def _read(folder: Path) -> PrepackedGraph:
    path = folder / _CHECKSUMS

    def damaged(reason: str) -> ArtifactError:
        return ArtifactError(f"{path}: {reason}")

    try:
        found = decode(_Checksums, read_within(path, MANIFEST, damaged), damaged)
    except FileNotFoundError:
        raise damaged("missing") from None
    if _GRAPH not in found.files:
        raise damaged(f"no {_GRAPH}")
    return PrepackedGraph(
        folder / _GRAPH, {folder / name: file for name, file in found.files.items()}
    )


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
    """Return the CPU's architecture and instruction sets, on which the packed layout depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags}"
