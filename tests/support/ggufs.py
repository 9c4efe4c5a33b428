"""GGUFs made with the `gguf` package's own quantiser and writer."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint

FLOATS = ("F32", "F16", "BF16")
# Bytes where a block's float16 scales stand
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
TYPES = (*FLOATS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", *SCALES)


def stored(values: np.ndarray, kind: str) -> np.ndarray:
    """The values in a type of GGUF; the package quantises no K type, so those are random blocks."""
    if kind not in SCALES:
        return quantize(values, GGMLQuantizationType[kind])
    size, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rng = np.random.default_rng(values.size)
    blocks = rng.integers(0, 256, (values.size // size, num_bytes), np.uint8)
    for at in SCALES[kind]:
        blocks[:, at : at + 2] = (
            rng.uniform(1e-5, 1e-4, (len(blocks), 1)).astype("<f2").view(np.uint8)
        )
    return blocks.reshape(*values.shape[:-1], -1)


def read(content: np.ndarray, kind: str) -> np.ndarray:
    """The values as the package has them."""
    return dequantize(content, GGMLQuantizationType[kind]).astype(np.float32)


def write(path: Path, tensors: Mapping[str, tuple[np.ndarray, str]], **metadata) -> Path:
    """A GGUF of stored values and their types."""
    writer = GGUFWriter(path, "voxtral")
    for key, value in metadata.items():
        {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}[type(value)](
            key, value
        )
    for name, (content, kind) in tensors.items():
        writer.add_tensor(name, content, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(
    path: Path,
    config: VoxtralConfig | None,
    tensors: Mapping[str, np.ndarray],
    kind: str | Callable[[str], str],
) -> dict[str, np.ndarray]:
    """A GGUF of a model's values under their names: matrices of a kind, the rest F32.

    Returns the values it holds.
    """
    kind_of = kind if callable(kind) else lambda name: kind
    kinds = {name: kind_of(name) if value.ndim == 2 else "F32" for name, value in tensors.items()}
    contents = {
        name: (stored(value.astype(np.float32), kinds[name]), kinds[name])
        for name, value in tensors.items()
    }
    write(
        path, contents, **({"voxtral_onnx.config": json.dumps(config.to_dict())} if config else {})
    )
    return {name: read(content, kind) for name, (content, kind) in contents.items()}


def mistral_tensors(folder: Path) -> dict[str, np.ndarray]:
    """float32 values of `consolidated.safetensors`, in its own order of rows."""
    import torch
    from safetensors.torch import load_file

    return {
        name: value.to(torch.float32).numpy()
        for name, value in load_file(folder / "consolidated.safetensors").items()
    }


def half_split(values: np.ndarray, name: str, config: VoxtralConfig) -> np.ndarray:
    """Mistral's rows in Hugging Face's order, as its converter has it."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return values
    head_dim = (config.encoder if name.startswith("audio_tower") else config.decoder).head_dim
    heads = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return heads.swapaxes(1, 2).reshape(values.shape)


def config_of(folder: Path) -> VoxtralConfig:
    return open_checkpoint(folder).config


def cut(path: Path, size: int, folder: Path, first: str = "aa") -> list[Path]:
    """Shards as `split` makes them."""
    folder.mkdir()
    content, suffix, shards = path.read_bytes(), first, []
    for start in range(0, len(content), size):
        shard = folder / f"shard-{suffix}"
        shard.write_bytes(content[start : start + size])
        shards.append(shard)
        if suffix.isdigit():
            suffix = f"{int(suffix) + 1:0{len(suffix)}}"
        else:
            suffix = (
                suffix[0] + chr(ord(suffix[1]) + 1)
                if suffix[1] != "z"
                else chr(ord(suffix[0]) + 1) + "a"
            )
    return shards


def header(
    tensors: Sequence[tuple[bytes, Sequence[int], int]] = (),
    keys: Sequence[tuple[bytes, int, bytes]] = (),
    *,
    num_tensors: int | None = None,
    size: int = 0,
) -> bytes:
    """A header of float tensors (name, shape, offset) and keys (key, kind, value), and data."""

    def text(name: bytes) -> bytes:
        return struct.pack("<Q", len(name)) + name

    parts = [struct.pack("<4sIQQ", b"GGUF", 3, num_tensors or len(tensors), len(keys))]
    parts += [text(key) + struct.pack("<I", kind) + value for key, kind, value in keys]
    parts += [
        text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        for name, shape, offset in tensors
    ]
    content = b"".join(parts)
    return content + bytes(-len(content) % 32 + size)
