"""The weights of an artifact's graph, read from its data files as the checkpoint's tensors are."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..errors import ArtifactError
from ..manifest import GraphSpec
from .tensors import F16, F32, U8, Encoding, Span, Tensor, map_file

_ENCODINGS: dict[int, Encoding] = {
    onnx.TensorProto.FLOAT: F32,
    onnx.TensorProto.FLOAT16: F16,
    onnx.TensorProto.UINT8: U8,
}


def read_initializers(folder: Path, graph: GraphSpec) -> dict[str, Tensor]:
    """Lazy tensors of the initializers that stand in data files, by name, in the graph's row order.

    Raises:
        ArtifactError: the graph names a file that is not its own, or bytes that it does not hold.
    """
    path = folder / graph.path
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # the parser has no exception of its own
        raise ArtifactError(f"{path}: not a readable ONNX file ({error}); export again") from error
    files = {Path(name).name: Span((map_file(folder / name),)) for name in graph.data}
    found = {}
    for initializer in model.graph.initializer:
        if initializer.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {entry.key: entry.value for entry in initializer.external_data}
        encoding, shape = _ENCODINGS[initializer.data_type], tuple(initializer.dims)
        begin = int(where.get("offset", 0))
        end = begin + encoding.num_bytes(shape)
        file = files.get(where["location"])
        if file is None or end > file.size:
            raise ArtifactError(f"{path}: {initializer.name}: no such bytes in {where['location']}; export again")
        found[initializer.name] = Tensor(initializer.name, shape, encoding, file.part(begin, end))
    return found
