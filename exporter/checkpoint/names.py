"""Names, shapes and rotary rows of the model's tensors.

Inside the package a tensor has one name, such as `language_model.layers.0.mlp.gate_proj.weight`,
and its rotary rows are in the half-split order (pairs j, j + head_dim / 2). What checkpoints call
it is in schemes.py.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ...config import TransformerConfig, VoxtralConfig
from ...manifest import MAX_DELAY_TOKENS

EMBEDDING = "language_model.embed_tokens.weight"
# Only this architecture has it, whatever the names of the other tensors remind of
DELAY_NETWORK = "language_model.layers.0.ada_rms_norm.linear1.weight"


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
