"""The family of transformers.js: encoder, embedding and decoder graphs with growing caches.

Encoder and decoder use the data files of the native graphs. The inputs are those that the library's
`modeling_voxtral_realtime.js` (4.3) feeds: caches begin empty, each call's present is the next
one's past, and masks, all ones, only tell how long a session is. So the graphs drop the part of the
past that is outside the window, and compute the rotary angles themselves.
"""

from __future__ import annotations

from functools import partial

from ....config import TransformerConfig, VoxtralConfig
from ....manifest import TensorSpec, Tokens
from ...model.parameters import (
    PartFactory,
    by_name,
    language_model_parts,
    rotation_part,
    table_part,
)
from . import native
from .hf_files import DELAY_TOKENS, ROOT_NAMES, root_files
from .spec import Family, GraphPlan, PlanOf, add_counts, cache_specs, fused_operators


def plans(*, tokens: Tokens, build: PartFactory, suffix: str) -> tuple[PlanOf, ...]:
    """Return the plans of the graphs in the order in which a session calls them."""
    kinds = (audio_encoder_plan, embed_tokens_plan, decoder_plan)
    return tuple(partial(plan_of, build=build, suffix=suffix) for plan_of in kinds)


FAMILY = Family(plans, ROOT_NAMES, root_files)


def audio_encoder_plan(config: VoxtralConfig, build: PartFactory, suffix: str) -> GraphPlan:
    """Plan mel frames -> audio embeddings: 39 tokens in the first call, then one at a time."""
    native_plan, stack = native.encoder_plan(config, build, suffix), config.encoder
    padding_cache, dtype = (1, config.audio.n_mels + stack.hidden_size, 2), build.dtype
    parts = native_plan.parts | by_name(rotation_part(stack))

    def module():
        from ...model.streamed import StreamedEncoder

        return StreamedEncoder(parts, config)

    # Declare inputs and outputs, with the files and operators of the native graph
    return GraphPlan(
        role="audio_encoder",
        dtype=dtype,
        parts=parts,
        module=module,
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


def embed_tokens_plan(config: VoxtralConfig, build: PartFactory, suffix: str) -> GraphPlan:
    """Plan token ids -> rows of the tied table.

    The graph has a copy of the table, because the library only loads data files that are named
    after their graph.
    """
    tied = build.recipe.rule_for("language_model.embed_tokens")
    parts = by_name(table_part(build, config))

    def module():
        from ...model.streamed import Embedding

        return Embedding(parts)

    return GraphPlan(
        role="embed_tokens",
        dtype=build.dtype,
        parts=parts,
        module=module,
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


def decoder_plan(config: VoxtralConfig, build: PartFactory, suffix: str) -> GraphPlan:
    """Plan audio embeddings plus token embeddings -> logits."""
    native_plan = native.decoder_plan(config, Tokens(0, 0, 0, 0, 0), build, suffix)
    stack, dtype = config.decoder, build.dtype
    tied = build.recipe.rule_for("language_model.embed_tokens")
    fused = fused_operators(stack, build, "language_model")
    parts = language_model_parts(build, config) | by_name(rotation_part(stack))

    def module():
        from ...model.streamed import StreamedDecoder

        return StreamedDecoder(parts, config)

    # Declare inputs and outputs, with the files of the native graph
    return GraphPlan(
        role="decoder_model_merged",
        dtype=dtype,
        parts=parts,
        module=module,
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


def _rotation_bytes(stack: TransformerConfig) -> int:
    return sum(parameter.num_bytes for parameter in rotation_part(stack).parameters.values())
