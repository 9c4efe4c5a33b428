"""The weights of an artifact's graph.

Where they stand, and as the checkpoint's tensors are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from ...errors import ArtifactError
from ...manifest import GraphSpec
from .tensors import F16, F32, U8, Encoding, Span, Tensor, map_file

_ENCODINGS: dict[int, Encoding] = {
    onnx.TensorProto.FLOAT: F32,
    onnx.TensorProto.FLOAT16: F16,
    onnx.TensorProto.UINT8: U8,
}


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """Where an initializer's bytes are."""

    file: str  # below the artifact folder
    offset: int
    size: int


def read_initializers(folder: Path, graph: GraphSpec) -> dict[str, Tensor]:
    """Open the initializers that are in data files as lazy tensors, by name, rows as in the graph.

    Raises:
        ArtifactError: the graph names a file that is not its own, or bytes that it does not have.
    """
    files = {name: Span((map_file(folder / name),)) for name in graph.data}
    found = {}
    for initializer in _external_initializers(folder / graph.path):
        name, location = initializer.name, _location(graph.path, initializer)
        file, end = files.get(location.file), location.offset + location.size
        if file is None or end > file.size:
            raise ArtifactError(
                f"{folder / graph.path}: {name}: no such bytes in {location.file}; export again"
            )
        encoding = _ENCODINGS[initializer.data_type]
        found[name] = Tensor(
            name, tuple(initializer.dims), encoding, file.part(location.offset, end)
        )
    return found


def read_locations(folder: Path, graph_file: str) -> dict[str, TensorLocation]:
    """Return where the initializers of a graph are that are in data files, by name.

    Raises:
        ArtifactError: the graph does not parse.
    """
    return {
        tensor.name: _location(graph_file, tensor)
        for tensor in _external_initializers(folder / graph_file)
    }


def _external_initializers(path: Path) -> list[onnx.TensorProto]:
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # the parser has no exception of its own
        raise ArtifactError(f"{path}: not a readable ONNX file ({error}); export again") from error
    external = onnx.TensorProto.EXTERNAL
    return [tensor for tensor in model.graph.initializer if tensor.data_location == external]


def _location(graph_file: str, tensor: onnx.TensorProto) -> TensorLocation:
    where = {entry.key: entry.value for entry in tensor.external_data}
    size = _ENCODINGS[tensor.data_type].num_bytes(tuple(tensor.dims))
    file = Path(graph_file).with_name(where["location"]).as_posix()
    return TensorLocation(file, int(where.get("offset", 0)), size)
