"""Naming schemes: what each checkpoint format calls the model's tensors, and orders their rows.

    ours             audio_tower.layers.0.self_attn.q_proj    language_model.layers.0.mlp.gate_proj
    Mistral          …whisper_encoder.transformer.layers.0.…wq    layers.0.feed_forward.w1
    Hugging Face     audio_tower.layers.0.…q_proj    language_model.model.layers.0.…
    voxtral.cpp      enc.blk.0.attn_q    dec.blk.0.ffn_w1
    transcribe.cpp   enc.blocks.0.attn.q    dec.blocks.0.ffn.gate
    CrispASR         audio.blk.0.attn_q    blk.0.ffn_gate

Formats of GGUF files are listed in GGUF_SCHEMES; audio.cpp keeps Hugging Face's names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

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
_CRISPASR_PREFIXES = {
    "audio_tower.embedder.conv1.": "audio.conv.1.",
    "audio_tower.embedder.conv2.": "audio.conv.2.",
    "audio_tower.layers.": "audio.blk.",
    "audio_tower.norm.": "audio.ln_post.",
    "multi_modal_projector.linear_1.": "proj1.",
    "multi_modal_projector.linear_2.": "proj2.",
    "language_model.embed_tokens.": "token_embd.",
    "language_model.layers.": "blk.",
    "language_model.": "output_",
}
_CRISPASR_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
    "ada_rms_norm.linear1": "ada_norm_down",
    "ada_rms_norm.linear2": "ada_norm_up",
}
_HF_ENCODER_PARTS = {
    "input_layernorm": "self_attn_layer_norm",
    "post_attention_layernorm": "final_layer_norm",
}


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


def crispasr_name(name: str) -> str:
    """Return a tensor's name in the GGUF files of CrispASR.

    Source: its `convert-voxtral4b-to-gguf.py`.
    """
    renamed = _rename(name, _CRISPASR_PREFIXES, _CRISPASR_PARTS)
    is_encoder = name.startswith("audio_tower.")
    return renamed.replace("attn_output.", "attn_out.") if is_encoder else renamed


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
AUDIO_CPP = replace(HF, name="audio.cpp")
CRISPASR = NamingScheme(
    "CrispASR",
    crispasr_name,
    interleaved=False,
    extras={"audio.mel_filters", "audio.mel_window", "tokenizer.tekken.vocab_tensor"},
)
GGUF_SCHEMES = (MISTRAL, VOXTRAL_CPP, TRANSCRIBE_CPP, AUDIO_CPP, CRISPASR)
