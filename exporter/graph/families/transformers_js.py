"""The family of transformers.js: encoder, embedding and decoder graphs with growing caches.

Encoder and decoder use the data files of the native graphs. The inputs are those that the library's
`modeling_voxtral_realtime.js` (4.3) feeds: caches begin empty, each call's present is the next
one's past, and masks, all ones, only tell how long a session is. So the graphs drop the part of the
past that is outside the window, and compute the rotary angles themselves.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ....config import TransformerConfig, VoxtralConfig
from ....manifest import TensorSpec, Tokens
from ...model import ops
from ...model.layers import Positions
from ...model.linear import ModuleFactory, WithConstants
from ...model.voxtral import AudioEncoder, LanguageModel
from . import native
from .hf_files import DELAY_TOKENS, ROOT_NAMES, root_files
from .spec import Family, GraphPlan, PlanOf, add_counts, cache_specs, fused_operators

DIGITS, BASE = 3, 256  # a position has 3 digits of base 256, enough for 93 hours of encoder frames


def plans(*, tokens: Tokens, build: ModuleFactory, dtype: str, suffix: str) -> tuple[PlanOf, ...]:
    """Return the plans of the graphs in the order in which a session calls them."""
    kinds = (audio_encoder_plan, embed_tokens_plan, decoder_plan)
    return tuple(partial(plan_of, build=build, dtype=dtype, suffix=suffix) for plan_of in kinds)


FAMILY = Family(plans, ROOT_NAMES, root_files)


def audio_encoder_plan(
    config: VoxtralConfig, build: ModuleFactory, dtype: str, suffix: str
) -> GraphPlan:
    """Plan mel frames -> audio embeddings: 39 tokens in the first call, then one at a time."""
    native_plan, stack = native.encoder_plan(config, build, dtype, suffix), config.encoder
    padding_cache = (1, config.audio.n_mels + stack.hidden_size, 2)

    # Declare inputs and outputs, with the files and operators of the native graph
    return GraphPlan(
        role="audio_encoder",
        module=lambda: StreamedEncoder(build, config),
        inputs=(
            TensorSpec(
                "input_features",
                "float32",
                (1, config.audio.n_mels, f"{config.audio.frames_per_token}*chunk"),
            ),
            TensorSpec("attention_mask", "int64", (1, "total_sequence_length")),
            TensorSpec("position_ids", "int64", (1, f"{stack.downsample_factor}*chunk")),
            TensorSpec("past_padding_cache", dtype, padding_cache),
            *cache_specs(stack, dtype, 1, "past_key_values", "past_sequence_length"),
        ),
        outputs=(
            TensorSpec("audio_embeds", "float32", (1, "chunk", config.decoder.hidden_size)),
            TensorSpec("present_padding_cache", dtype, padding_cache),
            *cache_specs(stack, dtype, 1, "present", "present_sequence_length"),
        ),
        graph_file=f"onnx/audio_encoder{suffix}.onnx",
        data_file=native_plan.data_file,
        tensors=native_plan.tensors,
        fused_operators=native_plan.fused_operators,
        shares_weights_of=native_plan.graph_file,
        inline_bytes=_rotation_bytes(stack),
    )


def embed_tokens_plan(
    config: VoxtralConfig, build: ModuleFactory, dtype: str, suffix: str
) -> GraphPlan:
    """Plan token ids -> rows of the tied table.

    The graph has a copy of the table, because the library only loads data files that are named
    after their graph.
    """
    tied = build.recipe.rule_for("language_model.embed_tokens")
    return GraphPlan(
        role="embed_tokens",
        module=lambda: Embedding(build, config),
        inputs=(TensorSpec("input_ids", "int64", (1, "sequence_length")),),
        outputs=(
            TensorSpec(
                "inputs_embeds", "float32", (1, "sequence_length", config.decoder.hidden_size)
            ),
        ),
        graph_file=f"onnx/embed_tokens{suffix}.onnx",
        data_file=f"onnx/embed_tokens{suffix}.onnx_data",
        tensors=("language_model.embed_tokens.",),
        fused_operators={"GatherBlockQuantized" if tied else "Gather": 1},
    )


def decoder_plan(config: VoxtralConfig, build: ModuleFactory, dtype: str, suffix: str) -> GraphPlan:
    """Plan audio embeddings plus token embeddings -> logits."""
    native_plan = native.decoder_plan(config, Tokens(0, 0, 0, 0, 0), build, dtype, suffix)
    stack = config.decoder
    tied = build.recipe.rule_for("language_model.embed_tokens")
    fused = fused_operators(stack, build, "language_model")
    return GraphPlan(
        role="decoder_model_merged",
        module=lambda: StreamedDecoder(build, config),
        inputs=(
            TensorSpec("inputs_embeds", "float32", (1, "sequence_length", stack.hidden_size)),
            TensorSpec("attention_mask", "int64", (1, "total_sequence_length")),
            TensorSpec("num_delay_tokens", "int64", (1,)),
            *cache_specs(stack, dtype, 1, "past_key_values", "past_sequence_length"),
        ),
        outputs=(
            TensorSpec("logits", "float32", (1, "sequence_length", stack.vocab_size)),
            *cache_specs(stack, dtype, 1, "present", "present_sequence_length"),
        ),
        graph_file=f"onnx/decoder_model_merged{suffix}.onnx",
        data_file=native_plan.data_file,
        tensors=native_plan.tensors,
        fused_operators=add_counts(fused, {"MatMulNBits": 1} if tied else {"Gemm": 1}),
        shares_weights_of=native_plan.graph_file,
        inline_bytes=_rotation_bytes(stack),
        defaults={"num_delay_tokens": DELAY_TOKENS},
    )


class Rotation(WithConstants):
    """Rotary cosines and sines of any position, by adding the angles of its digits.

    A float32 angle is off by 0.016 at position 10^6, and float64 runs on few hosts.
    """

    def __init__(self, build: ModuleFactory, stack: TransformerConfig):
        super().__init__()
        self.stack = stack
        self.cos = build.parameter(DIGITS * BASE, stack.head_dim // 2, dtype=torch.float32)
        self.sin = build.parameter(DIGITS * BASE, stack.head_dim // 2, dtype=torch.float32)

    def constants(self) -> dict[str, np.ndarray]:
        """Return cos and sin [DIGITS * BASE, head_dim / 2] of every digit in every place."""
        positions = np.arange(BASE) * BASE ** np.arange(DIGITS)[:, None]
        frequencies = self.stack.rope_theta ** (
            -2.0 * np.arange(self.stack.head_dim // 2) / self.stack.head_dim
        )
        angles = positions.reshape(-1, 1) * frequencies
        return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin, float32 [1, seq, head_dim / 2], of int64 positions [1, seq]."""
        rows = [ops.digit(positions, BASE, place) + BASE * place for place in range(DIGITS)]
        cos, sin = ops.gather(self.cos, rows[0]), ops.gather(self.sin, rows[0])
        for row in rows[1:]:
            c, s = ops.gather(self.cos, row), ops.gather(self.sin, row)
            cos, sin = cos * c - sin * s, sin * c + cos * s
        return cos, sin


class StreamedEncoder(AudioEncoder):
    """The encoder with growing key-value caches and one cache for both convolutions."""

    def __init__(self, build: ModuleFactory, config: VoxtralConfig):
        super().__init__(build, config)
        self.n_mels, self.window = config.audio.n_mels, config.encoder.sliding_window
        self.rotation = Rotation(build, config.encoder)

    def forward(
        self,
        input_features: Tensor,  # float32 [1, n_mels, 8 * chunk]
        attention_mask: Tensor,  # int64 [1, total], all ones
        position_ids: Tensor,  # int64 [1, 4 * chunk]
        past_padding_cache: Tensor,  # [1, n_mels + hidden_size, 2]
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        stem = self.audio_tower.embedder
        x, conv1_state = stem.conv1(
            past_padding_cache[:, : self.n_mels], input_features.to(self.dtype)
        )
        x, conv2_state = stem.conv2(past_padding_cache[:, self.n_mels :, 1:], x)
        # The second convolution reads one column of the two
        padding_cache = torch.cat((conv1_state, conv2_state.expand(-1, -1, 2)), 1)
        cos, sin = (part.to(self.dtype) for part in self.rotation(position_ids))
        audio_embeds, present = self.encode(
            x, Positions.behind(past[0], self.window, cos, sin), past
        )
        return audio_embeds.float(), padding_cache, *present


class Table(nn.Module):
    """A module that gives the tied table its name in the checkpoint."""

    def __init__(self, build: ModuleFactory, name: str, config: VoxtralConfig):
        super().__init__()
        self.embed_tokens = build.tied_embedding(
            f"{name}.embed_tokens", config.decoder.vocab_size, config.decoder.hidden_size
        )


class Embedding(nn.Module):
    """The lookup of token embeddings."""

    def __init__(self, build: ModuleFactory, config: VoxtralConfig):
        super().__init__()
        self.language_model = Table(build, "language_model", config)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.language_model.embed_tokens.embed(input_ids).float()  # [1, seq, hidden_size]


class StreamedDecoder(nn.Module):
    """The decoder's layers and head, with growing key-value caches."""

    def __init__(self, build: ModuleFactory, config: VoxtralConfig):
        super().__init__()
        self.dtype, self.window = build.dtype, config.decoder.sliding_window
        self.language_model = LanguageModel(build, config)
        self.rotation = Rotation(build, config.decoder)

    def forward(
        self,
        inputs_embeds: Tensor,  # float32 [1, seq, hidden_size]
        attention_mask: Tensor,  # int64 [1, total], all ones
        num_delay_tokens: Tensor,  # int64 [1]
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        seq = inputs_embeds.shape[1]
        begin = ops.size(attention_mask, 1) - ops.size(inputs_embeds, 1)
        positions = begin + torch.arange(seq)  # [seq]
        cos, sin = (part.to(self.dtype) for part in self.rotation(positions[None]))
        at = Positions.behind(past[0], self.window, cos, sin)
        hidden, present = self.language_model.run(
            inputs_embeds.to(self.dtype), at, past, num_delay_tokens
        )
        return self.language_model.embed_tokens.logits(hidden).float(), *present


def _rotation_bytes(stack: TransformerConfig) -> int:
    return 2 * 4 * DIGITS * BASE * stack.head_dim // 2
