"""Safetensors files against the format's own library: what is refused, and where tensors stand."""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import sys

import numpy as np
import pytest
from fuzz.targets.safetensors import parse
from safetensors.numpy import save

from voxtral_onnx.errors import CheckpointError, StorageError
from voxtral_onnx.exporter.checkpoint.formats.safetensors import open_safetensors

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
ENTRY = json.dumps(F32).encode()


def joined(header: object, size: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def accepts(content: bytes, folder) -> bool:
    """Say whether a file is accepted, which it is by both or by none."""
    (folder / "file").unlink(missing_ok=True)  # quicker than to cut one that was mapped
    try:
        parse(content, folder)
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize(
    ("header", "size", "accepted"),
    [
        ({"a": F32, "b": F32}, 4, False),  # overlap
        ({"a": F32 | {"data_offsets": [4, 8]}}, 8, False),  # a hole before it
        ({"a": F32}, 8, False),  # bytes behind it
        ({"a": F32}, 3, False),
        ({"a": F32 | {"shape": [1 << 63, 1 << 63]}}, 4, False),
        ({"a": F32 | {"shape": [1.0]}}, 4, False),
        ({"a": F32 | {"data_offsets": [4, 0]}}, 4, False),
        (b'{"a":' + ENTRY[:-1] + b', "dtype": "F32"}}', 4, False),
        (b'{"a":' + b"[" * 100_000, 4, False),
        (b'{"a":' + ENTRY + b"}\0", 4, False),
        ({"__metadata__": {"a": 3}, "a": F32}, 4, False),
        (b'{"a":' + ENTRY + b',"a":' + ENTRY + b"}", 4, True),
        (b'{"a":' + ENTRY + b"}   ", 4, True),
        ({"__metadata__": {"a": "3"}, "a": F32 | {"more": 3}}, 4, True),
        ({"b": F32 | {"data_offsets": [4, 8]}, "a": F32}, 8, True),
        ({"a": F32 | {"shape": [], "data_offsets": [0, 4]}}, 4, True),
        ({"b": F32, "a": F32 | {"shape": [3, 0], "data_offsets": [4, 4]}}, 4, True),
        ({}, 0, True),
    ],
)
def test_one_by_one(header, size, accepted, tmp_path):
    assert accepts(joined(header, size), tmp_path) == accepted


def mutants(seed: int, count: int):
    """Good headers with numbers, words and signs in them changed."""
    rng = random.Random(seed)
    for _ in range(count):
        at, header, names = 0, {}, [f"t{number}" for number in range(rng.randint(1, 5))]
        for name in names:
            dtype = rng.choice(["F32", "F16", "BF16", "F16", "BF16", "F32", "F64"])
            shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
            size = int(np.prod(shape)) * {"F32": 4, "F64": 8}.get(dtype, 2)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        entry = header[rng.choice(names)]
        match rng.randrange(12):
            case 0:
                entry["data_offsets"][rng.randrange(2)] += rng.choice([-2, 2, 4, 1 << 63])
            case 1:
                entry["shape"] += [rng.choice([1, 2, -1, 1 << 62, 1.0, "1", None])]
            case 2:
                other = header[rng.choice(names)]
                entry["data_offsets"], other["data_offsets"] = (
                    other["data_offsets"],
                    entry["data_offsets"],
                )
            case 3:
                del entry[rng.choice(list(entry))]
            case 4:
                entry["dtype"] = rng.choice(["f32", "F4", "I8", "", 3, "F16", "BF16"])
            case 5:
                at += rng.choice([-1, 1, 8])
        content = bytearray(joined(header, max(0, at)))
        if rng.random() < 0.3:
            content[rng.randrange(len(content))] = rng.randrange(256)
        yield bytes(content)


def test_thousands_of_damaged_files(tmp_path):
    accepted = [accepts(content, tmp_path) for content in mutants(0, 4000)]
    assert 500 < sum(accepted) < 3500


def test_no_header_is_larger_than_its_budget(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(joined(b'{"a":' + ENTRY + b"}" + b" " * (4 << 20), 4))
    with pytest.raises(CheckpointError, match=r"header would have 4,194,\d+ bytes, more than"):
        open_safetensors(path)


def test_a_large_file_takes_no_memory(tmp_path):
    """Its header is read and nothing else; a hole on the disk has the size of the model."""
    path, size = tmp_path / "file", 8_900_000_000
    entry = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    path.write_bytes(joined({"a": entry}, 0))
    os.truncate(path, path.stat().st_size + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert open_safetensors(path)["a"].num_bytes == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit no mappings")
def test_a_file_larger_than_what_may_be_mapped(tmp_path):
    path, size = tmp_path / "file", 1 << 42
    entry = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    path.write_bytes(joined({"a": entry}, 0))
    os.truncate(path, path.stat().st_size + size)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 41, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot be mapped.*ulimit -v unlimited"):
            open_safetensors(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_file_that_changes_between_two_readings(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(save({"a": np.ones(4, np.float32)}))
    from voxtral_onnx.exporter.checkpoint.formats import safetensors

    def read_and_change(path, read=safetensors._read_header):
        found = read(path)
        path.write_bytes(path.read_bytes() + bytes(4))
        return found

    monkeypatch.setattr(safetensors, "_read_header", read_and_change)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        open_safetensors(path)
