"""GGUF files, against the `gguf` package where it can read them."""

from __future__ import annotations

import struct
from pathlib import Path

from gguf import GGUFReader
from support.ggufs import header

from voxtral_onnx.exporter.checkpoint.formats.gguf import open_gguf
from voxtral_onnx.exporter.checkpoint.formats.gguf_model import EMBEDDED, read_gguf_model
from voxtral_onnx.exporter.checkpoint.formats.shards import find
from voxtral_onnx.exporter.checkpoint.names import DELAY_NETWORK
from voxtral_onnx.exporter.checkpoint.schemes import AUDIO_CPP

MARK = AUDIO_CPP.rename(DELAY_NETWORK).encode()
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
    return {
        "whole": header(tensors, keys, size=576),
        "tensors": header(tensors, size=576),
        "model": header(*_model(), size=576),
    }


def _model() -> tuple[list, list]:
    """Return tensors and keys as audio.cpp and CrispASR have them, in one file."""

    def texts(*values: bytes) -> bytes:
        return b"".join(struct.pack("<Q", len(value)) + value for value in values)

    tensors = [(MARK, (64, 2), 0), (b"_audiocpp.1", (5,), 512), (b"c", (1,), 544)]
    files = EMBEDDED.encode()
    return tensors, [
        (files + b"names", 9, struct.pack("<IQ", 8, 2) + texts(b"README.md", b"tekken.json")),
        (files + b"offsets", 9, struct.pack("<IQ3Q", 10, 3, 0, 2, 4)),
        (files + b"data", 9, struct.pack("<IQ", 0, 4) + b"hi{}"),
        (b"voxtral4b.llm.sliding_window", 4, struct.pack("<I", 64)),
        (b"voxtral4b.llm.rope_theta", 6, struct.pack("<f", 1e6)),
        (b"audiocpp.tensor_names", 9, struct.pack("<IQ", 8, 3) + texts(MARK, b"b", b"c")),
        (b"audiocpp.tensor_ranks", 9, struct.pack("<IQ3i", 5, 3, 2, 3, 0)),
        (b"audiocpp.tensor_shapes", 9, struct.pack("<IQ5q", 11, 5, 2, 64, 1, 1, 5)),
    ]


def parse(data: bytes, folder: Path) -> None:
    """Open it; what is taken stands where the package has it."""
    path = folder / "model.gguf"
    path.write_bytes(data)
    ours, metadata = open_gguf(find(path))
    for tensor in ours.values():
        tensor.rows(0, 2)
    if MARK.decode() in ours or "audiocpp.tensor_names" in metadata:
        for tensor in read_gguf_model(path, find(path)).tensors.values():
            assert tensor.num_bytes == tensor.encoding.num_bytes(tensor.shape)
    if len(data) > COMPARED:
        return
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == tuple(int(size) for size in theirs[name].shape)[::-1]
        assert tensor.span.pieces[0].offset == theirs[name].data_offset
        assert tensor.num_bytes == theirs[name].n_bytes
