"""The native family: mel, encoder and decoder with caches in fixed buffers that the host owns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ...config import TransformerConfig, VoxtralConfig
from ...manifest import TensorSpec, Tokens
from ..modules import Build, Decoder, Encoder


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """One graph to trace: its module, its contract and its files."""

    role: str
    module: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph_file: str  # below the artifact folder
    data_file: str  # stem of the external data files
    fused_operators: dict[str, int]  # what tracing must find, layer by layer

    @property
    def num_layers(self) -> int:
        """Layers that keep keys and values."""
        return sum(spec.name.startswith("past_key_values.") for spec in self.inputs) // 2


def encoder_plan(config: VoxtralConfig, build: Build, dtype: str, suffix: str) -> GraphPlan:
    """C tokens a call: 8c mel frames -> 4c encoder frames -> c audio embeddings; batch 1."""
    stack, frames = config.encoder, config.audio.frames_per_token
    rows = f"{stack.downsample_factor}*chunk"
    states = [("conv1_state", (1, config.audio.n_mels, 2)), ("conv2_state", (1, stack.hidden_size, 1))]
    return GraphPlan(
        role="encoder",
        module=lambda: Encoder(build, config),
        inputs=(
            TensorSpec("input_features", "float32", (1, config.audio.n_mels, f"{frames}*chunk")),
            *(TensorSpec(name, dtype, shape) for name, shape in states),
            *_positions(stack, dtype, 1, rows),
            *_caches(stack, dtype, 1, "past_key_values", "capacity"),
        ),
        outputs=(
            TensorSpec("audio_embeds", dtype, (1, "chunk", config.decoder.hidden_size)),
            *(TensorSpec(f"present_{name}", dtype, shape) for name, shape in states),
            *_caches(stack, dtype, 1, "present", "present_capacity"),
        ),
        graph_file=f"onnx/encoder{suffix}.onnx",
        data_file=f"onnx/audio_encoder{suffix}.onnx_data",
        fused_operators={**_fused(stack, build, "audio_tower"), "Conv": 2},
    )


def decoder_plan(config: VoxtralConfig, tokens: Tokens, build: Build, dtype: str, suffix: str) -> GraphPlan:
    """Embedding lookup, layers, head and greedy choice; batch > 1 only with seq = 1."""
    stack = config.decoder
    step = ("batch", "seq")
    tied = build.recipe.rule_for("language_model.embed_tokens")
    head = {"MatMulNBits": 1, "GatherBlockQuantized": 1} if tied else {"Gemm": 1}
    fused = _fused(stack, build, "language_model")
    return GraphPlan(
        role="decoder",
        module=lambda: Decoder(build, config, tokens),
        inputs=(
            TensorSpec("input_ids", "int64", step),
            TensorSpec("audio_embeds", dtype, (*step, stack.hidden_size)),
            TensorSpec("num_delay_tokens", "int64", ("batch",)),
            *_positions(stack, dtype, "batch", "seq"),
            TensorSpec("blank_penalty", "float32", step),
            *_caches(stack, dtype, "batch", "past_key_values", "capacity"),
        ),
        outputs=(
            TensorSpec("next_ids", "int64", step),
            TensorSpec("step", "float32", (*step, 3)),
            TensorSpec("logits", "float32", (*step, stack.vocab_size)),
            *_caches(stack, dtype, "batch", "present", "present_capacity"),
        ),
        graph_file=f"onnx/decoder{suffix}.onnx",
        data_file=f"onnx/decoder_model_merged{suffix}.onnx_data",
        fused_operators={name: fused.get(name, 0) + head.get(name, 0) for name in fused.keys() | head.keys()},
    )


def _positions(stack: TransformerConfig, dtype: str, batch: int | str, rows: int | str) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("cos", dtype, (batch, rows, stack.head_dim // 2)),
        TensorSpec("sin", dtype, (batch, rows, stack.head_dim // 2)),
        TensorSpec("seqlens_k", "int32", (batch,)),
        TensorSpec("total_sequence_length", "int32", ()),
    )


def _caches(stack: TransformerConfig, dtype: str, batch: int | str, prefix: str, axis: str) -> tuple[TensorSpec, ...]:
    shape = (batch, stack.num_key_value_heads, axis, stack.head_dim)
    return tuple(
        TensorSpec(f"{prefix}.{i}.{part}", dtype, shape)
        for i in range(stack.num_hidden_layers)
        for part in ("key", "value")
    )


def _fused(stack: TransformerConfig, build: Build, name: str) -> dict[str, int]:
    """Fused nodes of the layers: each layer has 1 attention, 2 rotations, 7 matrix products, 2 norms."""
    layers = stack.num_hidden_layers
    linears = [f"{name}.layers.{i}.self_attn.{part}_proj" for i in range(layers) for part in "qkvo"]
    linears += [f"{name}.layers.{i}.mlp.{part}_proj" for i in range(layers) for part in ("gate", "up", "down")]
    if name == "audio_tower":
        linears += ["multi_modal_projector.linear_1", "multi_modal_projector.linear_2"]
    quantized = sum(build.recipe.rule_for(linear) is not None for linear in linears)
    counts = {
        "GroupQueryAttention": layers,
        "RotaryEmbedding": 2 * layers,
        "QuickGelu": layers,
        "SimplifiedLayerNormalization": 1,
        "SkipSimplifiedLayerNormalization": 2 * layers,
        "MatMulNBits": quantized,
        "MatMul": len(linears) - quantized,
    }
    return {operator: count for operator, count in counts.items() if count}
