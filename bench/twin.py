"""Write a "twin" of the released checkpoint: random weights of the same names, shapes and dtypes.

    python bench/twin.py build/twin [--layers 0.5]

It has 711 tensors in 8.86 GB. Speed, memory and file sizes of the 4B model can be measured with it;
its transcripts are meaningless.
"""

from __future__ import annotations

import base64
import json
import struct
from math import prod
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.checkpoint.names import tensor_shapes
from voxtral_onnx.exporter.checkpoint.schemes import mistral_name

SLICE = 1 << 24  # values written at a time
PARAMS = {  # the released params.json
    "dim": 3072,
    "n_layers": 26,
    "head_dim": 128,
    "hidden_dim": 9216,
    "n_heads": 32,
    "n_kv_heads": 8,
    "use_biases": False,
    "causal": True,
    "rope_theta": 1e6,
    "norm_eps": 1e-5,
    "vocab_size": 131072,
    "model_parallel": 1,
    "tied_embeddings": True,
    "sliding_window": 8192,
    "model_max_length": 131072,
    "ada_rms_norm_t_cond": True,
    "ada_rms_norm_t_cond_dim": 32,
    "multimodal": {
        "whisper_model_args": {
            "encoder_args": {
                "audio_encoding_args": {
                    "sampling_rate": 16000,
                    "frame_rate": 12.5,
                    "num_mel_bins": 128,
                    "hop_length": 160,
                    "window_size": 400,
                    "chunk_length_s": None,
                    "global_log_mel_max": 1.5,
                    "transcription_format": "streaming",
                },
                "dim": 1280,
                "n_layers": 32,
                "head_dim": 64,
                "hidden_dim": 5120,
                "n_heads": 32,
                "n_kv_heads": 32,
                "vocab_size": 131072,
                "use_biases": True,
                "use_cache": False,
                "rope_theta": 1e6,
                "causal": True,
                "norm_eps": 1e-5,
                "pos_embed": "rope",
                "max_source_positions": None,
                "ffn_type": "swiglu",
                "norm_type": "rms_norm",
                "sliding_window": 750,
            },
            "downsample_args": {"downsample_factor": 4},
        }
    },
}


def write_twin(folder: Path, layers: float = 1.0, seed: int = 0) -> int:
    """Write the twin with a fraction of the layers, and return the bytes of its weights."""
    # Configuration and tokenizer
    params = json.loads(json.dumps(PARAMS))
    params["n_layers"] = round(params["n_layers"] * layers)
    encoder = params["multimodal"]["whisper_model_args"]["encoder_args"]
    encoder["n_layers"] = round(encoder["n_layers"] * layers)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    (folder / "tekken.json").write_text(json.dumps(_tekken(params["vocab_size"])))

    # Header of the weights
    shapes = {
        mistral_name(name): shape
        for name, shape in tensor_shapes(VoxtralConfig.from_params(params)).items()
    }
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    # Weights, cut from a pool of random values and truncated to bfloat16
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal(2 * SLICE, dtype=np.float32)
    with (folder / "consolidated.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            left = prod(shape)
            while left:
                count = min(left, SLICE)
                start = rng.integers(0, SLICE)
                values = _scaled(pool[start : start + count], name, shape)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= count
    return offset


def _scaled(values: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return values scaled so that the random network's activations stay in range."""
    if len(shape) == 1:
        return values * np.float32(0.02) + np.float32("bias" not in name)
    if "tok_embeddings" in name:
        return values * np.float32(0.7)
    return values * np.float32((0.3 if "ada" in name else 0.7) * prod(shape[1:]) ** -0.5)


def _tekken(vocab_size: int) -> dict:
    named = {1: "<s>", 2: "</s>", 32: "[STREAMING_PAD]", 33: "[STREAMING_WORD]"}
    pieces = [bytes([i % 256]) if i < 256 else f" {i:x}".encode() for i in range(vocab_size - 1000)]
    return {
        "config": {
            "pattern": r"\s?\S+|\s+",
            "default_num_special_tokens": 1000,
            "default_vocab_size": vocab_size,
            "version": "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(piece).decode()}
            for i, piece in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": i, "token_str": named.get(i, f"<SPECIAL_{i}>")} for i in range(1000)
        ],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "transcription_delay_ms": 480,
            "streaming_n_left_pad_tokens": 32,
        },
    }


def main(
    folder: Path, layers: Annotated[float, typer.Option(help="Fraction of the layers.")] = 1.0
) -> None:
    """Write a random twin of the released checkpoint, at full size by default."""
    print(f"{write_twin(folder, layers) / 1e9:.2f} GB")


if __name__ == "__main__":
    typer.run(main)
