"""External data of an artifact's graph: locations of its initializers, and their lazy tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import Message

from ...decode import is_relative_name, read_within
from ...errors import ArtifactError
from ...escaping import quoted
from ...files import is_below
from ...limits import GRAPH
from ...manifest import GraphSpec
from .tensors import F16, F32, U8, Encoding, Span, Tensor, map_file

_ENCODINGS: dict[int, Encoding] = {
    onnx.TensorProto.FLOAT: F32,
    onnx.TensorProto.FLOAT16: F16,
    onnx.TensorProto.UINT8: U8,
}


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """The location of an initializer's bytes in a data file."""

    file: str  # below the artifact folder
    offset: int  # bytes
    size: int  # bytes


def read_initializers(folder: Path, graph: GraphSpec) -> dict[str, Tensor]:
    """Open the initializers of a graph that are in data files, as lazy tensors by name.

    Raises:
        ArtifactError: the graph does not parse, names a file that is not its own, or refers to
            bytes that the file does not have.
    """
    for name in graph.files:
        if not is_below(folder, folder / name):
            raise ArtifactError(f"{folder}: {name}: a link that leads out of the folder")
    files = {name: Span((map_file(folder / name),)) for name in graph.data}
    found = {}
    for initializer in _external_initializers(folder / graph.path):
        name = initializer.name
        location, encoding = _location(folder, graph.path, initializer)
        file, end = files.get(location.file), location.offset + location.size
        if file is None or end > file.size or name in found:
            raise ArtifactError(
                f"{folder / graph.path}: {name}: no such bytes in {location.file}; export again"
            )
        found[name] = Tensor(
            name, tuple(initializer.dims), encoding, file.part(location.offset, end)
        )
    return found


def read_locations(folder: Path, graph_file: str) -> dict[str, TensorLocation]:
    """Return the locations of a graph's initializers that are in data files, by name.

    Raises:
        ArtifactError: the graph does not parse, or has data elsewhere than beside it.
    """
    return {
        tensor.name: _location(folder, graph_file, tensor)[0]
        for tensor in _external_initializers(folder / graph_file)
    }


def _external_initializers(path: Path) -> list[onnx.TensorProto]:
    def wrong(reason: object) -> ArtifactError:
        return ArtifactError(f"{path}: not a readable ONNX file ({reason}); export again")

    try:
        content = read_within(path, GRAPH, wrong)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path}: missing; export again") from None
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # the parser has no exception of its own
        raise wrong(error) from error
    external = onnx.TensorProto.EXTERNAL
    found = [tensor for tensor in model.graph.initializer if tensor.data_location == external]
    if len(found) != sum(tensor.data_location == external for tensor in _tensors(model)):
        raise wrong("expected only initializers in data files")
    return found


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield all tensors in a message, those of attributes, subgraphs and functions included."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _tensors(part)


def _location(
    folder: Path, graph_file: str, tensor: onnx.TensorProto
) -> tuple[TensorLocation, Encoding]:
    """Return the location of a tensor's bytes and their encoding."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    name, encoding = where.get("location", ""), _ENCODINGS.get(tensor.data_type)
    offset, length = where.get("offset", "0"), where.get("length", "")
    size = 0 if encoding is None else encoding.num_bytes(tuple(tensor.dims))
    texts = (tensor.name, *where.keys(), *where.values())
    if (
        encoding is None
        or not all(isinstance(text, str) for text in texts)  # text that is not UTF-8 is bytes
        or min(tensor.dims, default=1) < 1
        or not is_relative_name(name)
        or "/" in name
        or not re.fullmatch("[0-9]{1,18}", offset)
        or length not in ("", str(size))
    ):
        raise ArtifactError(
            f"{folder / graph_file}: {tensor.name}: expected float32, float16 or uint8 values in a "
            f"file beside the graph, got type {tensor.data_type} {list(tensor.dims)} in "
            f"{quoted(name)}, {length or size} bytes from {offset}; export again"
        )
    file = PurePosixPath(graph_file).with_name(name).as_posix()
    return TensorLocation(file, int(offset), size), encoding
