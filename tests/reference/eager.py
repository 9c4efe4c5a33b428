"""The exporter's modules with a checkpoint's weights, whole.

What the graphs and the layer-by-layer run must equal.
"""

from __future__ import annotations

import numpy as np
import torch

from voxtral_onnx.config import TransformerConfig
from voxtral_onnx.exporter.checkpoint.open import Checkpoint
from voxtral_onnx.exporter.checkpoint.tekken import read_tekken
from voxtral_onnx.exporter.model.linear import DequantizedTiedEmbedding, QuantizedTiedEmbedding
from voxtral_onnx.exporter.model.parameters import (
    PartFactory,
    Parts,
    decoder_parts,
    encoder_parts,
)
from voxtral_onnx.exporter.model.voxtral import BatchEncoder, Decoder, Encoder, PagedEncoder
from voxtral_onnx.quant.recipe import FLOAT, Recipe
from voxtral_onnx.verification.layerwise import (
    Layerwise,
    decoder_stages,
    encoder_stages,
    fill,
    rotation,
)


def eager_modules(checkpoint: Checkpoint, recipe: Recipe = FLOAT) -> tuple[Encoder, Decoder]:
    """Both steps with the checkpoint's weights, loaded by the exporter's own weight recipes."""
    build, config = PartFactory("float32", recipe), checkpoint.config
    tokens, _ = read_tekken(
        checkpoint.tokenizer, checkpoint.config, checkpoint.card.trained_delays_ms
    )
    parts = encoder_parts(build, config), decoder_parts(build, config, tokens)
    modules = Encoder(parts[0], config).eval(), Decoder(parts[1], config, tokens).eval()
    for module, of_module in zip(modules, parts, strict=True):
        load_weights(module, of_module, checkpoint)
    return modules


def eager_encoder(
    kind: type[BatchEncoder | PagedEncoder], checkpoint: Checkpoint, recipe: Recipe = FLOAT
) -> BatchEncoder | PagedEncoder:
    """An encoder for several streams, likewise."""
    parts = encoder_parts(PartFactory("float32", recipe), checkpoint.config)
    module = kind(parts, checkpoint.config).eval()
    load_weights(module, parts, checkpoint)
    return module


def load_weights(
    module: torch.nn.Module, parts: Parts, checkpoint: Checkpoint, name: str = ""
) -> None:
    """Load a module of floats or codes, whose embedding shares what the head has, as on disk."""
    fill(module, parts, checkpoint, name)
    for part in module.modules():
        if isinstance(part, QuantizedTiedEmbedding):
            part.gather_scales = torch.nn.Parameter(part.scales[..., None], requires_grad=False)
        elif isinstance(part, DequantizedTiedEmbedding):
            part.gather_weight = part.weight


def run_stages(
    layers: Layerwise, input_features: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Audio embeddings [tokens, hidden_size] and logits [tokens, vocab_size], layer by layer."""
    x = input_features
    for stage in encoder_stages(layers.config):
        (x,) = layers.run(stage, [x])
    audio_embeds = x
    x = layers.embed(ids) + audio_embeds
    for stage in decoder_stages(layers.config):
        (x,) = layers.run(stage, [x])
    return audio_embeds, torch.cat([*layers.logits(x)], -1)


def empty_caches(stack: TransformerConfig, capacity: int, batch: int = 1) -> list[torch.Tensor]:
    """Zero buffers for every layer's keys and values."""
    shape = (batch, stack.num_key_value_heads, capacity, stack.head_dim)
    return [torch.zeros(shape) for _ in range(2 * stack.num_hidden_layers)]


@torch.no_grad()
def encode_whole(
    encoder: Encoder, checkpoint: Checkpoint, input_features: np.ndarray
) -> torch.Tensor:
    """Audio embeddings [1, tokens, hidden_size] of a whole recording in one call."""
    stack, frames = checkpoint.config.encoder, input_features.shape[2] // 2
    states = torch.zeros(1, input_features.shape[1], 2), torch.zeros(1, stack.hidden_size, 1)
    at = torch.tensor([frames - 1], dtype=torch.int32), torch.tensor(frames, dtype=torch.int32)
    rows = rotation(stack, 0, frames)
    return encoder(
        torch.from_numpy(input_features), *states, *rows, *at, *empty_caches(stack, frames)
    )[0]


@torch.no_grad()
def decode_whole(
    decoder: Decoder,
    checkpoint: Checkpoint,
    ids: torch.Tensor,
    audio_embeds: torch.Tensor,
    delay: int,
) -> torch.Tensor:
    """Logits [1, seq, vocab_size] of a whole token sequence in one call."""
    stack, seq = checkpoint.config.decoder, ids.shape[1]
    at = torch.tensor([seq - 1], dtype=torch.int32), torch.tensor(seq, dtype=torch.int32)
    rows, caches = rotation(stack, 0, seq), empty_caches(stack, seq)
    return decoder(
        ids, audio_embeds, torch.tensor([delay]), *rows, *at, torch.zeros(1, seq), *caches
    )[2]
