"""Checkpoint folders of one layer, with random weights, in either layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.checkpoint import names, schemes

TINY = Path(__file__).parents[2] / "assets" / "tiny"
SMALL_STACK = {"dim": 64, "n_layers": 1, "head_dim": 32, "hidden_dim": 64, "n_heads": 2}


def small_params() -> dict:
    params = json.loads((TINY / "params.json").read_text())
    params.update(SMALL_STACK, n_kv_heads=1)
    params["multimodal"]["whisper_model_args"]["encoder_args"].update(SMALL_STACK, n_kv_heads=2)
    return params


def small_config() -> VoxtralConfig:
    return VoxtralConfig.from_params(small_params())


def small_tensors(
    layout: schemes.NamingScheme = schemes.MISTRAL, seed: int = 0
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        layout.rename(name): (random.standard_normal(shape) * 0.05).astype(np.float16)
        for name, shape in names.tensor_shapes(small_config()).items()
    }


def write_mistral(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(small_params()))
    save_file(small_tensors(seed=seed), folder / "consolidated.safetensors")
    shutil.copyfile(TINY / "tekken.json", folder / "tekken.json")
    return folder


def hf_configs(config: VoxtralConfig) -> tuple[dict, dict]:
    """The contents of `config.json` and `processor_config.json`."""
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}

    def stack(values) -> dict:
        names = (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "head_dim",
        )
        names += ("num_key_value_heads", "sliding_window", "rms_norm_eps")
        return {**{name: getattr(values, name) for name in names}, **rope, "hidden_act": "silu"}

    top = {
        "model_type": "voxtral_realtime",
        "projector_hidden_act": "gelu",
        "audio_length_per_tok": config.audio.frames_per_token,
        "downsample_factor": config.encoder.downsample_factor,
        "audio_config": {
            **stack(config.encoder),
            "activation_function": "gelu",
            "num_mel_bins": config.audio.n_mels,
        },
        "text_config": {
            **stack(config.decoder),
            "vocab_size": config.decoder.vocab_size,
            "tie_word_embeddings": True,
        },
    }
    extractor = {
        "sampling_rate": config.audio.sample_rate,
        "n_fft": config.audio.n_fft,
        "win_length": config.audio.n_fft,
        "hop_length": config.audio.hop_length,
        "feature_size": config.audio.n_mels,
        "global_log_mel_max": config.audio.global_log_mel_max,
    }
    return top, {"feature_extractor": extractor}


def write_hf(folder: Path) -> Path:
    """Two shards and an index."""
    folder.mkdir()
    top, processor = hf_configs(small_config())
    (folder / "config.json").write_text(json.dumps(top))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    tensors = small_tensors(schemes.HF)
    stored = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": stored[::2],
        "model-00002-of-00002.safetensors": stored[1::2],
    }
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shutil.copyfile(TINY / "tekken.json", folder / "tekken.json")
    return folder
