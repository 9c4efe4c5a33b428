"""Tensors and configs of checkpoints that others have quantised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.exporter.checkpoint.formats.compressed import check_config, join_compressed
from voxtral_onnx.exporter.checkpoint.formats.mlx import join_mlx
from voxtral_onnx.exporter.checkpoint.formats.safetensors import open_safetensors

BETWEEN = b"\n---\n"  # config and weights in an input


def seeds() -> dict[str, bytes]:
    """Return matrices in each packing, with the configs that belong to them."""
    floats = np.full((4, 2), 0.5, np.float32)
    packed = {
        "x.weight_packed": np.arange(32, dtype=np.int32).reshape(4, 8),
        "x.weight_scale": floats,
        "x.weight_shape": np.array([4, 64]),
        "x.weight_g_idx": np.arange(64, dtype=np.int32) // 32,
    }
    grouped = {
        "x.weight": np.arange(32, dtype=np.uint32).reshape(4, 8),
        "x.scales": floats,
        "x.biases": floats,
    }
    weights = {"type": "int", "symmetric": True, "actorder": None}
    config = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": weights}}}
    mlx = {"quantization": {"bits": 4, "group_size": 32, "x": {"bits": 4, "group_size": 32}}}
    return {
        "packed": json.dumps(config).encode() + BETWEEN + save(packed),
        "grouped": json.dumps(mlx).encode() + BETWEEN + save(grouped),
    }


def parse(data: bytes, folder: Path) -> None:
    """Join the parts; what is taken can be read, by rows, columns and blocks."""
    config, _, weights = data.partition(BETWEEN)
    try:
        values = json.loads(config)
    except (ValueError, RecursionError):
        values = None
    path = folder / "file"
    path.write_bytes(weights)
    found = open_safetensors(path)
    if isinstance(values, dict) and "quantization" in values:
        joined = join_mlx("x", found, values)
    else:
        check_config("x", values)
        joined = join_compressed("x", found)
    for tensor in joined.values():
        if len(tensor.shape) == 2 and all(tensor.shape):
            with np.errstate(all="ignore"):
                rows = tensor.rows()
                columns = tensor.columns(0, tensor.shape[1], 0, tensor.shape[0])
            assert rows.shape == tensor.shape
            assert np.array_equal(rows.T, columns, equal_nan=True)
            if tensor.encoding.kept is not None:
                try:
                    tensor.blocks(0, tensor.shape[0])
                except QuantizationError:
                    continue
