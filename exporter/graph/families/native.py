"""The native family: encoder and decoder with key-value caches in buffers that the host owns.

Two more encoders, on the weights of the first, advance several streams in one call: one with a
buffer for each, and one with pages, for CUDA.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ....config import TransformerConfig, VoxtralConfig
from ....manifest import TensorSpec, Tokens
from ...model.parameters import PartFactory, decoder_parts, encoder_parts
from .spec import Family, GraphPlan, PlanOf, add_counts, cache_specs, fused_operators


def plans(*, tokens: Tokens, build: PartFactory, suffix: str) -> tuple[PlanOf, ...]:
    """Return the plans of encoder, decoder, and the encoders for several streams."""
    several = [batch_encoder_plan]
    if build.dtype == "float16":  # CUDA's attention has no pages of float32
        several.append(paged_encoder_plan)
    return (
        *pair(tokens=tokens, build=build, suffix=suffix),
        *(partial(plan, build=build, suffix=suffix) for plan in several),
    )


def pair(*, tokens: Tokens, build: PartFactory, suffix: str) -> tuple[PlanOf, ...]:
    """Return the plans of encoder and decoder."""
    return (
        partial(encoder_plan, build=build, suffix=suffix),
        partial(decoder_plan, tokens=tokens, build=build, suffix=suffix),
    )


FAMILY = Family(plans)


def encoder_plan(config: VoxtralConfig, build: PartFactory, suffix: str) -> GraphPlan:
    """Plan the encoder: 8c mel frames -> 4c encoder frames -> c audio embeddings; batch 1."""
    stack, dtype = config.encoder, build.dtype
    parts = encoder_parts(build, config)

    def module():
        from ...model.voxtral import Encoder

        return Encoder(parts, config)

    # Declare inputs, outputs, files, and the operators that the graph must have
    inputs, outputs = _encoder_ends(config, dtype, 1)
    return GraphPlan(
        role="encoder",
        dtype=dtype,
        parts=parts,
        module=module,
        inputs=inputs,
        outputs=outputs,
        graph_file=f"onnx/encoder{suffix}.onnx",
        data_file=f"onnx/audio_encoder{suffix}.onnx_data",
        tensors=("audio_tower.", "multi_modal_projector."),
        fused_operators={**fused_operators(stack, build, "audio_tower"), "Conv": 2},
    )


def batch_encoder_plan(config: VoxtralConfig, build: PartFactory, suffix: str) -> GraphPlan:
    """Plan the encoder for several streams that bring different numbers of frames, or none."""
    single = encoder_plan(config, build, suffix)

    def module():
        from ...model.voxtral import BatchEncoder

        return BatchEncoder(single.parts, config)

    # Declare inputs and outputs, with the files and operators of the single encoder
    inputs, outputs = _encoder_ends(
        config, build.dtype, "batch", TensorSpec("query_seqlens", "int32", ("batch",))
    )
    return replace(
        single,
        role="encoder_batch",
        module=module,
        inputs=inputs,
        outputs=outputs,
        graph_file=f"onnx/encoder_batch{suffix}.onnx",
        shares_weights_of=single.graph_file,
        fused_operators={**single.fused_operators, "GatherElements": 2},
    )


def paged_encoder_plan(config: VoxtralConfig, build: PartFactory, suffix: str) -> GraphPlan:
    """Plan the encoder for several streams whose caches are pages."""
    single, stack = encoder_plan(config, build, suffix), config.encoder

    def module():
        from ...model.voxtral import PagedEncoder

        return PagedEncoder(single.parts, config)

    # Declare inputs and outputs: lengths and pages in place of rows of one buffer
    inputs, outputs = _encoder_ends(config, build.dtype, "batch")
    paged = {
        spec.name: replace(spec, shape=("num_pages", "page_rows", *spec.shape[1::2]))
        for spec in (*inputs, *outputs)
        if "." in spec.name
    }
    rows = f"{stack.downsample_factor}*chunk"
    places = (
        TensorSpec("query_seqlens", "int32", ("batch",)),
        TensorSpec("cumulative_sequence_length", "int32", ("batch_and_1",)),
        TensorSpec("past_seqlens", "int32", ("batch",)),
        TensorSpec("block_table", "int32", ("batch", "pages")),
        TensorSpec("slot_mapping", "int32", ("batch", rows)),
        TensorSpec("attention_metadata", "int32", (2,)),
    )
    first = next(i for i, spec in enumerate(inputs) if spec.name == "seqlens_k")
    last = next(i for i, spec in enumerate(inputs) if spec.name in paged)
    inputs = (*inputs[:first], *places, *(paged[spec.name] for spec in inputs[last:]))
    embeds = TensorSpec("audio_embeds", build.dtype, (1, "tokens", config.decoder.hidden_size))
    outputs = (embeds, *(paged.get(spec.name, spec) for spec in outputs[1:]))
    operators = dict(single.fused_operators)
    operators["PagedAttention"] = operators.pop("GroupQueryAttention")
    return replace(
        single,
        role="encoder_paged",
        module=module,
        inputs=inputs,
        outputs=outputs,
        graph_file=f"onnx/encoder_paged{suffix}.onnx",
        shares_weights_of=single.graph_file,
        fused_operators={**operators, "GatherElements": 2},
    )


def decoder_plan(
    config: VoxtralConfig, tokens: Tokens, build: PartFactory, suffix: str
) -> GraphPlan:
    """Plan the decoder: embedding lookup, layers, head, greedy choice; batch > 1 needs seq = 1."""
    stack, dtype = config.decoder, build.dtype
    step = ("batch", "seq")
    parts = decoder_parts(build, config, tokens)
    tied = build.recipe.rule_for("language_model.embed_tokens")
    head = {"MatMulNBits": 1, "GatherBlockQuantized": 1} if tied else {"Gemm": 1}

    def module():
        from ...model.voxtral import Decoder

        return Decoder(parts, config, tokens)

    # Declare inputs, outputs, files, and the operators that the trace must have
    return GraphPlan(
        role="decoder",
        dtype=dtype,
        parts=parts,
        module=module,
        inputs=(
            TensorSpec("input_ids", "int64", step),
            TensorSpec("audio_embeds", dtype, (*step, stack.hidden_size)),
            TensorSpec("num_delay_tokens", "int64", ("batch",)),
            *_positions(stack, dtype, "batch", "seq"),
            TensorSpec("blank_penalty", "float32", step),
            *cache_specs(stack, dtype, "batch", "past_key_values", "capacity"),
        ),
        outputs=(
            TensorSpec("next_ids", "int64", step),
            TensorSpec("step", "float32", (*step, 3)),
            TensorSpec("logits", "float32", (*step, stack.vocab_size)),
            *cache_specs(stack, dtype, "batch", "present", "present_capacity"),
        ),
        graph_file=f"onnx/decoder{suffix}.onnx",
        data_file=f"onnx/decoder_model_merged{suffix}.onnx_data",
        tensors=("language_model.",),
        fused_operators=add_counts(fused_operators(stack, build, "language_model"), head),
    )


def _encoder_ends(
    config: VoxtralConfig, dtype: str, batch: int | str, *lengths: TensorSpec
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of an encoder; `lengths` are further inputs."""
    stack, frames = config.encoder, config.audio.frames_per_token
    states = [
        ("conv1_state", (batch, config.audio.n_mels, 2)),
        ("conv2_state", (batch, stack.hidden_size, 1)),
    ]
    inputs = (
        TensorSpec("input_features", "float32", (batch, config.audio.n_mels, f"{frames}*chunk")),
        *(TensorSpec(name, dtype, shape) for name, shape in states),
        *_positions(stack, dtype, batch, f"{stack.downsample_factor}*chunk"),
        *lengths,
        *cache_specs(stack, dtype, batch, "past_key_values", "capacity"),
    )
    outputs = (
        TensorSpec("audio_embeds", dtype, (batch, "chunk", config.decoder.hidden_size)),
        *(TensorSpec(f"present_{name}", dtype, shape) for name, shape in states),
        *cache_specs(stack, dtype, batch, "present", "present_capacity"),
    )
    return inputs, outputs


def _positions(
    stack: TransformerConfig, dtype: str, batch: int | str, rows: int | str
) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("cos", dtype, (batch, rows, stack.head_dim // 2)),
        TensorSpec("sin", dtype, (batch, rows, stack.head_dim // 2)),
        TensorSpec("seqlens_k", "int32", (batch,)),
        TensorSpec("total_sequence_length", "int32", ()),
    )
