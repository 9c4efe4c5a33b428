"""GGUF files, against the `gguf` package where it can read them."""

from __future__ import annotations

import struct
from pathlib import Path

from gguf import GGUFReader
from support.ggufs import header

from voxtral_onnx.exporter.checkpoint.gguf import find, open_gguf

COMPARED = 1 << 16  # bytes of a file; of a larger header the package makes too many objects


def seeds() -> dict[str, bytes]:
    """Return files with tensors and with every kind of key."""
    tensors = [(b"a", (64, 2), 0), (b"b", (5,), 512), (b"c", (1,), 544)]
    keys = [
        (b"general.alignment", 4, struct.pack("<I", 32)),
        (b"a.text", 8, struct.pack("<Q4s", 4, b"toy!")),
        (b"a.list", 9, struct.pack("<IQ2f", 6, 2, 1, 2)),
        (b"a.words", 9, struct.pack("<IQQ1sQ2s", 8, 2, 1, b"a", 2, b"bc")),
        (b"a.flag", 7, b"\1"),
        (b"a.double", 12, struct.pack("<d", 0.5)),
    ]
    return {"whole": header(tensors, keys, size=576), "tensors": header(tensors, size=576)}


def parse(data: bytes, folder: Path) -> None:
    """Open it; what is taken stands where the package has it."""
    path = folder / "model.gguf"
    path.write_bytes(data)
    ours, _ = open_gguf(find(path))
    for tensor in ours.values():
        tensor.rows(0, 2)
    if len(data) > COMPARED:
        return
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == tuple(int(size) for size in theirs[name].shape)[::-1]
        assert tensor.span.pieces[0].offset == theirs[name].data_offset
        assert tensor.num_bytes == theirs[name].n_bytes
