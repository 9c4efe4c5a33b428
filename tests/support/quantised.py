"""Checkpoints that others have quantised, made from *tiny* under the names of their tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import TINY
from support.ggufs import half_split

from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.checkpoint import names, schemes

Tensors = dict[str, torch.Tensor]
LINEAR = (".wq.", ".wk.", ".wv.", ".wo.", ".w1.", ".w2.", ".w3.", "_proj.", ".gate_proj.")


def is_linear(name: str) -> bool:
    """Return whether a tensor of Mistral's or Hugging Face's names is a linear layer's matrix."""
    return name.endswith(".weight") and any(part in name for part in LINEAR)


def in_decoder(name: str) -> bool:
    return is_linear(name) and name.startswith(("layers.", "language_model."))


def pack_to_int32(codes: np.ndarray, bits: int) -> np.ndarray:
    """Signed integers [N, K] -> int32 [N, K * bits / 32]: the middle is added, the first is low."""
    per_word = 32 // bits
    unsigned = codes.astype(np.int64) + (1 << (bits - 1))
    assert unsigned.min() >= 0 and unsigned.max() < 1 << bits
    words = np.zeros((codes.shape[0], codes.shape[1] // per_word), np.uint32)
    for place in range(per_word):
        words |= (unsigned[:, place::per_word] << bits * place).astype(np.uint32)
    return words.view(np.int32)


def round_in_groups(
    values: torch.Tensor, bits: int, size: int, dtype: torch.dtype
) -> tuple[np.ndarray, torch.Tensor]:
    """Round to nearest: signed codes [N, K], scales [N, K / size] of a type."""
    groups = values.float().unflatten(1, (-1, size))
    top = (1 << (bits - 1)) - 1
    scales = (groups.abs().amax(-1) / (top + 0.5)).to(dtype)
    codes = (groups / scales.float()[..., None]).round().clamp(-top - 1, top)
    return codes.flatten(1).to(torch.int8).numpy(), scales


def packed(
    tensors: Mapping[str, torch.Tensor],
    which: Callable[[str], bool],
    *,
    bits: int = 4,
    size: int = 32,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensors, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Pack some matrices as compressed-tensors' `pack-quantized` does.

    Return the tensors to store, and codes from 0 up with float32 scales by the name of the weight.
    """
    stored, wanted = {}, {}
    for name, value in tensors.items():
        if not which(name):
            stored[name] = value
            continue
        codes, scales = round_in_groups(value, bits, size, dtype)
        stored[f"{name}_packed"] = torch.from_numpy(pack_to_int32(codes, bits))
        stored[f"{name}_scale"] = scales
        stored[f"{name}_shape"] = torch.tensor(value.shape)
        unsigned = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
        wanted[name] = unsigned, scales.float().numpy()
    return stored, wanted


def packed_config(bits: int = 4, size: int = 32, **weights: object) -> dict[str, Any]:
    """Return a `quantization_config` of compressed-tensors."""
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": size,
        "actorder": None,
        "dynamic": False,
        "observer": "minmax",
        **weights,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }


def float8(tensors: Mapping[str, torch.Tensor], *, per_tensor: bool = False) -> Tensors:
    """Store the linear layers as FP8-Dynamic does: F8_E4M3 and a scale for each row or for all."""
    stored = {}
    for name, value in tensors.items():
        if not is_linear(name):
            stored[name] = value
            continue
        largest = value.float().abs()
        scales = (largest.max().reshape(1) if per_tensor else largest.amax(1, keepdim=True)) / 448
        scales = scales.to(torch.bfloat16)
        stored[name] = (value.float() / scales.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
        stored[f"{name}_scale"] = scales
    return stored


def float8_config() -> dict[str, Any]:
    config = packed_config(8, type="float", strategy="channel", group_size=None)
    activations = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    config["config_groups"]["group_0"]["input_activations"] = activations
    return {**config, "format": "float-quantized"}


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes from 0 up [N, K] -> uint32 [N, K * bits / 32], the first in the lowest bits."""
    each = codes[..., None] >> np.arange(bits, dtype=np.uint8) & 1
    stream = np.packbits(each.reshape(len(codes), -1).astype(np.uint8), -1, bitorder="little")
    return stream.view("<u4")


def affine(
    tensors: Mapping[str, torch.Tensor], which: Callable[[str], bool], *, bits: int, size: int
) -> tuple[Tensors, dict[str, np.ndarray]]:
    """Quantise some matrices as MLX does. Return the tensors to store, and the values they mean."""
    stored, wanted = {}, {}
    for name, value in tensors.items():
        if not which(name):
            stored[name] = value
            continue
        groups = value.float().unflatten(1, (-1, size))
        low, high = groups.amin(-1), groups.amax(-1)
        scales = ((high - low) / ((1 << bits) - 1)).clamp(min=1e-7).to(torch.bfloat16)
        biases = low.to(torch.bfloat16)
        codes = ((groups - biases.float()[..., None]) / scales.float()[..., None]).round()
        codes = codes.clamp(0, (1 << bits) - 1)
        means = codes * scales.float()[..., None] + biases.float()[..., None]
        module = name.removesuffix(".weight")
        words = bit_stream(codes.flatten(1).to(torch.uint8).numpy(), bits)
        stored[name] = torch.from_numpy(words.view(np.int32).copy()).view(torch.uint32)
        stored[f"{module}.scales"], stored[f"{module}.biases"] = scales, biases
        wanted[name] = means.flatten(1).numpy()
    return stored, wanted


_EMBEDDER = "mm_streams_embeddings.embedding_module."
_ENCODER = f"{_EMBEDDER}whisper_encoder."


def mlx_audio_name(name: str) -> str:
    """Mistral's name as mlx-audio's `sanitize` has it."""
    if name == f"{_EMBEDDER}tok_embeddings.weight":
        return "decoder.tok_embeddings.weight"
    name = name.replace(".feed_forward.w", ".feed_forward_w")
    if name.startswith(f"{_ENCODER}conv_layers."):
        _, number, _, kind = name.removeprefix(_ENCODER).split(".")
        return f"encoder.conv_layers_{number}_conv.conv.{kind}"
    if name.startswith(f"{_ENCODER}transformer."):
        return "encoder.transformer_" + name.removeprefix(f"{_ENCODER}transformer.")
    if name.startswith(f"{_EMBEDDER}audio_language_projection."):
        _, number, kind = name.removeprefix(_EMBEDDER).split(".")
        return f"encoder.audio_language_projection_{number}.{kind}"
    name = name.replace("t_cond.0.", "t_cond.ada_down.").replace("t_cond.2.", "t_cond.ada_up.")
    return f"decoder.{name}"


def voxmlx_name(name: str) -> str:
    """Mistral's name as voxmlx's remapping has it."""
    short = name.removeprefix(_EMBEDDER)
    for theirs, ours in (
        ("wq.", "q_proj."),
        ("wk.", "k_proj."),
        ("wv.", "v_proj."),
        ("wo.", "o_proj."),
        ("attention_norm.", "attn_norm."),
        ("feed_forward.w1.", "mlp.gate_proj."),
        ("feed_forward.w2.", "mlp.down_proj."),
        ("feed_forward.w3.", "mlp.up_proj."),
        ("ada_rms_norm_t_cond.0.", "ada_norm.linear_in."),
        ("ada_rms_norm_t_cond.2.", "ada_norm.linear_out."),
        ("whisper_encoder.conv_layers.0.conv.", "encoder.conv1."),
        ("whisper_encoder.conv_layers.1.conv.", "encoder.conv2."),
        ("whisper_encoder.transformer.", "encoder."),
        ("audio_language_projection.0.", "adapter.w_in."),
        ("audio_language_projection.2.", "adapter.w_out."),
        ("tok_embeddings.", "embed_tokens."),
    ):
        short = short.replace(theirs, ours)
    is_decoders = not short.startswith(("encoder.", "adapter."))
    return f"language_model.{short}" if is_decoders else short


def mlx_tensors(rename: Callable[[str], str]) -> Tensors:
    """Return *tiny*'s tensors under MLX's names, with convolutions [out, kernel, in]."""
    return {
        rename(name): value.swapaxes(1, 2).contiguous() if value.ndim == 3 else value
        for name, value in tiny_tensors().items()
    }


def mlx_audio_config(**quantization: object) -> dict[str, Any]:
    """Return the `config.json` that mlx-audio's converter makes of *tiny*'s `params.json`."""
    params = tiny_params()
    whisper = params["multimodal"]["whisper_model_args"]
    keys = ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "vocab_size")
    keys += ("norm_eps", "rope_theta", "sliding_window", "tied_embeddings")
    keys += ("ada_rms_norm_t_cond", "ada_rms_norm_t_cond_dim")
    config = {
        "model_type": "voxtral_realtime",
        "decoder": {key: params[key] for key in keys},
        "encoder_args": {**whisper["encoder_args"], **whisper["downsample_args"]},
    }
    return {**config, **({"quantization": quantization} if quantization else {})}


def voxmlx_config(**quantization: object) -> dict[str, Any]:
    """Return the `config.json` that voxmlx makes: `params.json` itself, and the quantisation."""
    return {**tiny_params(), **({"quantization": quantization} if quantization else {})}


def hf_tensors() -> Tensors:
    """Return *tiny*'s tensors under Hugging Face's names, with its order of rows."""
    config, stored = VoxtralConfig.from_params(tiny_params()), tiny_tensors()
    tensors = {}
    for name in names.tensor_shapes(config):
        value = stored[schemes.mistral_name(name)]
        rows = half_split(np.arange(len(value)), name, config)
        tensors[schemes.hf_name(name)] = value[torch.from_numpy(rows)]
    return tensors


def tiny_params() -> dict[str, Any]:
    return json.loads((TINY / "params.json").read_text())


def tiny_tensors() -> Tensors:
    return load_file(TINY / "consolidated.safetensors")


def write(
    folder: Path, tensors: Tensors, weights: str = "model.safetensors", **files: dict[str, Any]
) -> Path:
    """Write a checkpoint: weights, *tiny*'s tokenizer, and JSON files by their names' stems."""
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / weights)
    for stem, values in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(values))
    shutil.copyfile(TINY / "tekken.json", folder / "tekken.json")
    return folder
