"""`model.safetensors.index.json`: which file holds which tensor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from voxtral_onnx.exporter.checkpoint.formats.safetensors import open_hf_files

SHARDS = {
    f"model-{number:05}-of-00002.safetensors": save({name: np.ones(4, np.float32)})
    for number, name in ((1, "a.weight"), (2, "b.weight"))
}


def seeds() -> dict[str, bytes]:
    """Return the index of two shards, and one of the first alone."""
    weight_map = dict(zip(("a.weight", "b.weight"), SHARDS, strict=True))
    values = {"metadata": {"total_size": 32}, "weight_map": weight_map}
    one = {"weight_map": dict([*weight_map.items()][:1])}
    return {"two": json.dumps(values, indent=2).encode(), "one": json.dumps(one).encode()}


def parse(data: bytes, folder: Path) -> None:
    """Open the shards that it names; the ones beside it are all that there are."""
    (folder / "model.safetensors.index.json").write_bytes(data)
    for name, content in SHARDS.items():
        (folder / name).write_bytes(content)
    assert open_hf_files(folder).keys() <= {"a.weight", "b.weight"}
