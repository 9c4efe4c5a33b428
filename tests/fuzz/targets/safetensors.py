"""Safetensors files, against the format's own library: what is refused, where tensors stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from voxtral_onnx.errors import CheckpointError
from voxtral_onnx.exporter.checkpoint.formats.safetensors import open_safetensors
from voxtral_onnx.limits import HEADER

READ = {"BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "I8", "U8", "I32", "U32", "I64"}


def seeds() -> dict[str, bytes]:
    """Return files with few tensors, with none, and with some that have no values."""
    values = np.arange(12, dtype=np.float32)
    empty = {
        "a": values[:0],
        "b": values[:1].reshape(()),
        "c": values.reshape(3, 4),
        "d": values[:0],
    }
    return {
        "plain": save({"a": values.reshape(3, 4), "b": values.astype(np.float16)}, {"of": "test"}),
        "empty": save(empty),
        "none": save({}),
    }


def parse(data: bytes, folder: Path) -> None:
    """Open it; both accept the same files, and see the same bytes in them."""
    path = folder / "file"
    path.write_bytes(data)
    try:
        theirs = dict(deserialize(data))
    except SafetensorError:
        theirs = None
    try:
        ours = open_safetensors(path)
    except CheckpointError:
        others = {entry["dtype"] for entry in (theirs or {}).values()} - READ
        assert theirs is None or others or int.from_bytes(data[:8], "little") > HEADER
        raise
    assert theirs is not None and ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        entry = theirs[name]
        assert (tensor.encoding.name, [*tensor.shape]) == (entry["dtype"], entry["shape"])
        assert tensor.span.read(0, tensor.num_bytes).tobytes() == bytes(entry["data"])
