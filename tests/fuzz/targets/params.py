"""`params.json`: the hyperparameters in Mistral's layout."""

from __future__ import annotations

import json
from pathlib import Path

from support.checkpoints import TINY, small_params

from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.decode import convert
from voxtral_onnx.exporter.checkpoint.names import held_shapes, tensor_shapes
from voxtral_onnx.exporter.checkpoint.open import read_config


def seeds() -> dict[str, bytes]:
    """Return those of the embedded model and of a smaller one."""
    return {
        "tiny": (TINY / "params.json").read_bytes(),
        "small": json.dumps(small_params()).encode(),
    }


def parse(data: bytes, folder: Path) -> None:
    """Read them; what is taken fits in a manifest and says which tensors there are."""
    (folder / "params.json").write_bytes(data)
    check(read_config(folder))


def check(config: VoxtralConfig) -> None:
    """Hold a configuration against what a manifest says, and list its tensors."""
    assert convert(VoxtralConfig, config.to_dict(), AssertionError) == config
    shapes = [*tensor_shapes(config).values(), *held_shapes(config).values()]
    assert all(size > 0 for shape in shapes for size in shape)
