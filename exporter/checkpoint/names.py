"""Names, shapes and naming schemes of the checkpoint's tensors: every checkpoint quirk lives here.

Inside the package a tensor has one name, "ours", and its rotary rows are in the half-split order
(pairs j, j + head_dim / 2).

    ours            audio_tower.layers.0.self_attn.q_proj    language_model.layers.0.mlp.gate_proj
    Mistral         …whisper_encoder.transformer.layers.0.…wq    layers.0.feed_forward.w1
    Hugging Face    audio_tower.layers.0.…q_proj    language_model.model.layers.0.…
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import prod

import numpy as np

from ...config import TransformerConfig, VoxtralConfig
from ...manifest import MAX_DELAY_TOKENS

EMBEDDING = "language_model.embed_tokens.weight"
FIRST_PROJECTION = "language_model.layers.0.self_attn.q_proj.weight"

_EMBEDDER = "mm_streams_embeddings.embedding_module"
_MISTRAL_PREFIXES = {
    "audio_tower.embedder.conv1.": f"{_EMBEDDER}.whisper_encoder.conv_layers.0.conv.",
    "audio_tower.embedder.conv2.": f"{_EMBEDDER}.whisper_encoder.conv_layers.1.conv.",
    "audio_tower.": f"{_EMBEDDER}.whisper_encoder.transformer.",
    "multi_modal_projector.linear_1.": f"{_EMBEDDER}.audio_language_projection.0.",
    "multi_modal_projector.linear_2.": f"{_EMBEDDER}.audio_language_projection.2.",
    "language_model.embed_tokens.": f"{_EMBEDDER}.tok_embeddings.",
    "language_model.": "",
}
_MISTRAL_PARTS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "ada_rms_norm.linear1": "ada_rms_norm_t_cond.0",
    "ada_rms_norm.linear2": "ada_rms_norm_t_cond.2",
}
_VOXTRAL_CPP_PREFIXES = {
    "audio_tower.embedder.conv1.": "enc.conv0.",
    "audio_tower.embedder.conv2.": "enc.conv1.",
    "audio_tower.layers.": "enc.blk.",
    "audio_tower.": "enc.",
    "multi_modal_projector.linear_1.": "adapter.0.",
    "multi_modal_projector.linear_2.": "adapter.2.",
    "language_model.embed_tokens.": "tok_embeddings.",
    "language_model.layers.": "dec.blk.",
    "language_model.": "",
}
_VOXTRAL_CPP_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkvo"},
    "mlp.gate_proj": "ffn_w1",
    "mlp.down_proj": "ffn_w2",
    "mlp.up_proj": "ffn_w3",
    "ada_rms_norm.linear1": "ada0",
    "ada_rms_norm.linear2": "ada2",
}
_TRANSCRIBE_CPP_PREFIXES = {
    "audio_tower.embedder.conv1.": "enc.conv.0.",
    "audio_tower.embedder.conv2.": "enc.conv.1.",
    "audio_tower.layers.": "enc.blocks.",
    "audio_tower.": "enc.final_",
    "multi_modal_projector.": "proj.",
    "language_model.embed_tokens.": "dec.token_embd.",
    "language_model.layers.": "dec.blocks.",
    "language_model.": "dec.output_",
}
_TRANSCRIBE_CPP_PARTS = {
    "input_layernorm": "norm_attn",
    "post_attention_layernorm": "norm_ffn",
    **{f"self_attn.{part}_proj": f"attn.{part}" for part in "qkvo"},
    "mlp.gate_proj": "ffn.gate",
    "mlp.down_proj": "ffn.down",
    "mlp.up_proj": "ffn.up",
    "ada_rms_norm.linear1": "ada.linear_1",
    "ada_rms_norm.linear2": "ada.linear_2",
}
_HF_ENCODER_PARTS = {
    "input_layernorm": "self_attn_layer_norm",
    "post_attention_layernorm": "final_layer_norm",
}


def tensor_shapes(config: VoxtralConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the model by our name (711 for the 4B model)."""
    encoder, decoder = config.encoder, config.decoder

    # Encoder
    shapes = {
        "audio_tower.embedder.conv1.weight": (encoder.hidden_size, config.audio.n_mels, 3),
        "audio_tower.embedder.conv1.bias": (encoder.hidden_size,),
        "audio_tower.embedder.conv2.weight": (encoder.hidden_size, encoder.hidden_size, 3),
        "audio_tower.embedder.conv2.bias": (encoder.hidden_size,),
    }
    for i in range(encoder.num_hidden_layers):
        layer = f"audio_tower.layers.{i}."
        shapes |= _layer_shapes(layer, encoder)
        shapes |= {
            layer + "self_attn.q_proj.bias": (encoder.q_size,),
            layer + "self_attn.v_proj.bias": (encoder.kv_size,),
            layer + "self_attn.o_proj.bias": (encoder.hidden_size,),
            layer + "mlp.down_proj.bias": (encoder.hidden_size,),
        }
    shapes["audio_tower.norm.weight"] = (encoder.hidden_size,)

    # Adapter
    shapes |= {
        "multi_modal_projector.linear_1.weight": (
            decoder.hidden_size,
            encoder.hidden_size * encoder.downsample_factor,
        ),
        "multi_modal_projector.linear_2.weight": (decoder.hidden_size, decoder.hidden_size),
    }

    # Decoder
    for i in range(decoder.num_hidden_layers):
        layer = f"language_model.layers.{i}."
        shapes |= _layer_shapes(layer, decoder)
        shapes |= {
            layer + "ada_rms_norm.linear1.weight": (
                decoder.time_embedding_rank,
                decoder.hidden_size,
            ),
            layer + "ada_rms_norm.linear2.weight": (
                decoder.hidden_size,
                decoder.time_embedding_rank,
            ),
        }
    shapes["language_model.norm.weight"] = (decoder.hidden_size,)
    shapes[EMBEDDING] = (decoder.vocab_size, decoder.hidden_size)
    return shapes


def held_shapes(config: VoxtralConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of an artifact's graphs by our name.

    They are the model's tensors, but each delay network is replaced by its table: the gains
    [delays, 1, hidden_size] that it computes for every delay.
    """
    decoder = config.decoder
    shapes = {
        name: shape for name, shape in tensor_shapes(config).items() if ".ada_rms_norm." not in name
    }
    tables = (
        f"language_model.layers.{i}.ada_rms_norm.table" for i in range(decoder.num_hidden_layers)
    )
    return shapes | dict.fromkeys(tables, (MAX_DELAY_TOKENS + 1, 1, decoder.hidden_size))


def count_parameters(config: VoxtralConfig, prefixes: tuple[str, ...]) -> int:
    """Count the values of the checkpoint's tensors whose names begin with one of some prefixes."""
    return sum(
        prod(shape) for name, shape in tensor_shapes(config).items() if name.startswith(prefixes)
    )


def quantizable_modules(config: VoxtralConfig) -> tuple[str, ...]:
    """Return the names of the linear layers and the tied table, which recipes may quantise."""
    return tuple(
        name.removesuffix(".weight")
        for name, shape in tensor_shapes(config).items()
        # The delay's network becomes a table of gains
        if len(shape) == 2 and ".ada_rms_norm." not in name
    )


def _layer_shapes(prefix: str, stack: TransformerConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = stack.hidden_size, stack.intermediate_size
    shapes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (stack.q_size, hidden),
        "self_attn.k_proj": (stack.kv_size, hidden),
        "self_attn.v_proj": (stack.kv_size, hidden),
        "self_attn.o_proj": (hidden, stack.q_size),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {f"{prefix}{name}.weight": shape for name, shape in shapes.items()}


def mistral_name(name: str) -> str:
    """Return a tensor's name in `consolidated.safetensors`, which GGUF conversions may keep."""
    return _rename(name, _MISTRAL_PREFIXES, _MISTRAL_PARTS)


def voxtral_cpp_name(name: str) -> str:
    """Return a tensor's name in the GGUF files of voxtral.cpp.

    Source: the names that its loader, `voxtral.cpp`, asks for.
    """
    return _rename(name, _VOXTRAL_CPP_PREFIXES, _VOXTRAL_CPP_PARTS)


def transcribe_cpp_name(name: str) -> str:
    """Return a tensor's name in the GGUF files of transcribe.cpp.

    Source: its `convert-voxtral_realtime.py`.
    """
    renamed = _rename(name, _TRANSCRIBE_CPP_PREFIXES, _TRANSCRIBE_CPP_PARTS)
    return renamed.replace("attn.o.", "attn.out.") if name.startswith("audio_tower.") else renamed


def hf_name(name: str) -> str:
    """Return a tensor's name in Hugging Face's `model.safetensors`, as `save_pretrained` has it."""
    if name.startswith("audio_tower."):
        return _replace_part(name, _HF_ENCODER_PARTS)
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return name


def hf_live_name(name: str) -> str:
    """Return a tensor's name in the `state_dict` of the loaded transformers model."""
    if name.startswith("audio_tower."):
        name = _replace_part(name, _HF_ENCODER_PARTS)
    return "model." + name


def _rename(name: str, prefixes: dict[str, str], parts: dict[str, str]) -> str:
    for ours, theirs in prefixes.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    return _replace_part(name, parts)


def _replace_part(name: str, parts: dict[str, str]) -> str:
    for ours, theirs in parts.items():
        if f".{ours}." in name:
            return name.replace(ours, theirs)
    return name


@dataclass(frozen=True, slots=True)
class NamingScheme:
    """The tensor names and the order of rotary rows of one checkpoint format."""

    name: str
    rename: Callable[[str], str]  # our name -> its name
    interleaved: bool  # rotary pairs are rows (2j, 2j + 1)
    tied_copies: Collection[str] = ()  # names that may repeat the embedding
    extras: Collection[str] = ()  # names of tensors that the format has besides the model's


MISTRAL = NamingScheme("mistral", mistral_name, interleaved=True)
HF = NamingScheme(
    "huggingface",
    hf_name,
    interleaved=False,
    tied_copies={"language_model.lm_head.weight", "lm_head.weight"},
)
HF_LIVE = NamingScheme(
    "huggingface-live", hf_live_name, interleaved=False, tied_copies={"lm_head.weight"}
)
VOXTRAL_CPP = NamingScheme(
    "voxtral.cpp", voxtral_cpp_name, interleaved=True, extras={"audio.mel_filters"}
)
TRANSCRIBE_CPP = NamingScheme(
    "transcribe.cpp",
    transcribe_cpp_name,
    interleaved=False,
    extras={"frontend.mel_filterbank", "frontend.window", "dec.time_embed.inv_freq"},
)
GGUF_SCHEMES = (MISTRAL, VOXTRAL_CPP, TRANSCRIBE_CPP)


def rotary_head_dim(name: str, config: VoxtralConfig) -> int | None:
    """Return the head width of a tensor whose rows are in rotary pairs, else None.

    Those are the q and k weights and the encoder's q bias.
    """
    if ".self_attn.q_proj." not in name and ".self_attn.k_proj." not in name:
        return None
    return (config.encoder if name.startswith("audio_tower.") else config.decoder).head_dim


def half_split_rows(num_rows: int, head_dim: int) -> np.ndarray:
    """Return the interleaved row that each half-split row comes from, int64 [num_rows].

    Source: transformers' `convert_voxtral_realtime_weights_to_hf.py`, `permute_for_rope`.
    """
    return np.arange(num_rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
