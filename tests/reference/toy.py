"""Small random models with the real one's awkward ratios.

They come in both checkpoint layouts, with transformers as oracle.

The weights come from transformers' own class and are written by its own `save_pretrained`;
Mistral's layout is written here from the table of names, so that it is an account of its own of the
rotary row order.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import VoxtralRealtimeConfig, VoxtralRealtimeForConditionalGeneration

from voxtral_onnx.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig

NUM_SPECIAL = 1000
BOS, EOS, PAD, WORD = 1, 2, 32, 33


def toy_config(**decoder) -> VoxtralConfig:
    """Return a small configuration with the real one's awkward ratios.

    heads * head_dim differs from hidden_size, queries are grouped, windows roll within seconds.
    """
    config = VoxtralConfig(
        AudioConfig(16000, 400, 160, 128, 1.5, 8),
        EncoderConfig(64, 96, 4, 3, 3, 32, 22, 1e6, 1e-5, downsample_factor=4),
        DecoderConfig(96, 160, 3, 6, 2, 16, 26, 1e6, 1e-5, vocab_size=1300, time_embedding_rank=32),
    )
    return replace(config, decoder=replace(config.decoder, **decoder))


def transformers_model(config: VoxtralConfig, seed: int) -> VoxtralRealtimeForConditionalGeneration:
    """Return transformers' model with weights that do not just echo the input.

    All are bfloat16 values held in float32.
    """
    encoder, decoder, audio = config.encoder, config.decoder, config.audio

    def stack(part):
        return {
            "hidden_size": part.hidden_size,
            "intermediate_size": part.intermediate_size,
            "num_hidden_layers": part.num_hidden_layers,
            "num_attention_heads": part.num_attention_heads,
            "head_dim": part.head_dim,
            "sliding_window": part.sliding_window,
            "rms_norm_eps": part.rms_norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": part.rope_theta},
        }

    model = VoxtralRealtimeForConditionalGeneration(
        VoxtralRealtimeConfig(
            audio_config={
                "model_type": "voxtral_realtime_encoder",
                "num_mel_bins": audio.n_mels,
                **stack(encoder),
            },
            text_config={
                "model_type": "voxtral_realtime_text",
                "num_key_value_heads": decoder.num_key_value_heads,
                "vocab_size": decoder.vocab_size,
                **stack(decoder),
            },
        )
    ).eval()
    rng = np.random.default_rng(seed)  # PyTorch's normal numbers depend on the processor
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                mean, deviation = 0.0, 0.3
            elif parameter.ndim > 1:
                mean, deviation = 0.0, 1.5 / parameter[0].numel() ** 0.5
            else:
                mean, deviation = (0.0, 0.2) if "bias" in name else (1.0, 0.1)
            parameter.copy_(torch.from_numpy(rng.normal(mean, deviation, parameter.shape)))
        # Else the tied table just echoes the input token
        model.model.multi_modal_projector.linear_2.weight.mul_(4)
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, 11
    return model


def write_hf(
    model: VoxtralRealtimeForConditionalGeneration, config: VoxtralConfig, folder: Path, **save
) -> Path:
    """Hugging Face's layout, as `save_pretrained` writes it, in bfloat16."""
    half = VoxtralRealtimeForConditionalGeneration(model.config).bfloat16()
    half.load_state_dict({name: value.bfloat16() for name, value in model.state_dict().items()})
    half.tie_weights()
    half.save_pretrained(folder, **save)
    audio = config.audio
    extractor = {
        "feature_size": audio.n_mels,
        "n_fft": audio.n_fft,
        "win_length": audio.n_fft,
        "hop_length": audio.hop_length,
        "sampling_rate": audio.sample_rate,
        "global_log_mel_max": audio.global_log_mel_max,
    }
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor}))
    (folder / "tekken.json").write_bytes(tekken(config))
    return folder


def write_mistral(
    model: VoxtralRealtimeForConditionalGeneration, config: VoxtralConfig, folder: Path
) -> Path:
    """Mistral's layout: its names, interleaved rotary rows."""
    folder.mkdir(parents=True)
    tensors = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        stack = config.encoder if ".audio_tower." in name else config.decoder
        if ".q_proj." in name or ".k_proj." in name:
            heads = value.shape[0] // stack.head_dim
            value = (
                value.unflatten(0, (heads, 2, stack.head_dim // 2)).transpose(1, 2).flatten(0, 2)
            )
        tensors[_mistral_name(name)] = value.bfloat16().contiguous()
    save_file(tensors, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(params(config)))
    (folder / "tekken.json").write_bytes(tekken(config))
    return folder


def _mistral_name(name: str) -> str:
    module = "mm_streams_embeddings.embedding_module."
    for ours, theirs in (
        ("model.audio_tower.embedder.conv1", module + "whisper_encoder.conv_layers.0.conv"),
        ("model.audio_tower.embedder.conv2", module + "whisper_encoder.conv_layers.1.conv"),
        ("model.audio_tower.", module + "whisper_encoder.transformer."),
        ("model.multi_modal_projector.linear_1", module + "audio_language_projection.0"),
        ("model.multi_modal_projector.linear_2", module + "audio_language_projection.2"),
        ("model.language_model.embed_tokens", module + "tok_embeddings"),
        ("model.language_model.", ""),
        ("self_attn_layer_norm", "attention_norm"),
        ("final_layer_norm", "ffn_norm"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        *((f"self_attn.{part}_proj", f"attention.w{part}") for part in "qkvo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("ada_rms_norm.linear1", "ada_rms_norm_t_cond.0"),
        ("ada_rms_norm.linear2", "ada_rms_norm_t_cond.2"),
    ):
        name = name.replace(ours, theirs)
    return name


def params(config: VoxtralConfig) -> dict:
    """Mistral's `params.json`."""

    def stack(part):
        return {
            "dim": part.hidden_size,
            "n_layers": part.num_hidden_layers,
            "head_dim": part.head_dim,
            "hidden_dim": part.intermediate_size,
            "n_heads": part.num_attention_heads,
            "n_kv_heads": part.num_key_value_heads,
            "rope_theta": part.rope_theta,
            "norm_eps": part.rms_norm_eps,
            "sliding_window": part.sliding_window,
            "causal": True,
        }

    encoder = {
        **stack(config.encoder),
        "use_biases": True,
        "use_cache": False,
        "pos_embed": "rope",
        "max_source_positions": None,
        "ffn_type": "swiglu",
        "norm_type": "rms_norm",
        "vocab_size": config.decoder.vocab_size,
        "audio_encoding_args": {
            "sampling_rate": config.audio.sample_rate,
            "frame_rate": 12.5,
            "num_mel_bins": config.audio.n_mels,
            "hop_length": config.audio.hop_length,
            "window_size": config.audio.n_fft,
            "chunk_length_s": None,
            "global_log_mel_max": config.audio.global_log_mel_max,
            "transcription_format": "streaming",
        },
    }
    return {
        **stack(config.decoder),
        "use_biases": False,
        "vocab_size": config.decoder.vocab_size,
        "model_parallel": 1,
        "tied_embeddings": True,
        "model_max_length": 131072,
        "ada_rms_norm_t_cond": True,
        "ada_rms_norm_t_cond_dim": config.decoder.time_embedding_rank,
        "multimodal": {
            "whisper_model_args": {
                "encoder_args": encoder,
                "downsample_args": {"downsample_factor": config.encoder.downsample_factor},
            }
        },
    }


def tekken(config: VoxtralConfig) -> bytes:
    """A tokenizer whose text tokens are the bytes and pairs of them."""
    named = {BOS: "<s>", EOS: "</s>", PAD: "[STREAMING_PAD]", WORD: "[STREAMING_WORD]"}
    count = config.decoder.vocab_size - NUM_SPECIAL
    pieces = [bytes([i]) for i in range(256)] + [
        bytes([97 + i // 26 % 26, 97 + i % 26]) for i in range(count - 256)
    ]
    return json.dumps(
        {
            "config": {
                "pattern": r"\p{L}+|\s+|.",
                "default_num_special_tokens": NUM_SPECIAL,
                "default_vocab_size": config.decoder.vocab_size,
            },
            "vocab": [
                {"rank": i, "token_bytes": base64.b64encode(piece).decode()}
                for i, piece in enumerate(pieces)
            ],
            "special_tokens": [
                {"rank": i, "token_str": named.get(i, f"<SPECIAL_{i}>"), "is_control": True}
                for i in range(NUM_SPECIAL)
            ],
            "audio": {
                "sampling_rate": 16000,
                "frame_rate": 12.5,
                "transcription_delay_ms": 480,
                "streaming_n_left_pad_tokens": 32,
            },
        }
    ).encode()


def babble(seconds: float, seed: int = 0) -> np.ndarray:
    """Loud sound that changes every 80 ms: float32 [n] at 16 kHz."""
    rng = np.random.default_rng(seed)
    count = int(seconds * 16000)
    parts = -(-count // 1280)
    t = np.arange(1280) / 16000
    tones = rng.uniform(100, 7500, (parts, 3, 1))
    levels = 10 ** rng.uniform(-3, -0.7, (parts, 3, 1))
    noise = 10 ** rng.uniform(-4, -1, (parts, 1)) * rng.standard_normal((parts, 1280))
    return (
        ((levels * np.sin(2 * np.pi * tones * t)).sum(1) + noise)
        .reshape(-1)[:count]
        .astype(np.float32)
    )
