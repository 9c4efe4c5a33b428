"""Wilful damage to a copy of an artifact, hashes made right again: what only the rungs can find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from voxtral_onnx.files import hash_file
from voxtral_onnx.manifest import Manifest


def rehash(folder: Path) -> None:
    """Make the manifest name what the files hold now."""
    manifest = Manifest.read(folder)
    replace(manifest, files={name: hash_file(folder / name) for name in manifest.files}).write(
        folder
    )


def edit_tensor(folder: Path, role: str, name: str, change: Callable[[np.ndarray], None]) -> None:
    """Change an initializer in its data file."""
    (precision,) = Manifest.read(folder).precisions.values()
    model = onnx.load(folder / getattr(precision, role).path, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    values = np.memmap(
        folder / "onnx" / place["location"],
        onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type),
        "r+",
        int(place["offset"]),
        tuple(tensor.dims),
    )
    change(values)
    values.flush()
    rehash(folder)


def edit_graph(folder: Path, role: str, change: Callable[[onnx.GraphProto], None]) -> None:
    """Change a graph's nodes."""
    (precision,) = Manifest.read(folder).precisions.values()
    path = folder / getattr(precision, role).path
    model = onnx.load(path, load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    rehash(folder)


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in node.attribute if attribute.name == name)


def nodes(graph: onnx.GraphProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == op_type]
