"""The encoder step and the decoder step, written for tracing.

Parameter names are the checkpoint's names (weights.py), so a traced initializer says which tensor
fills it. Run without tracing, the same modules are the float reference of the tests. MODEL.md
numbers the algorithm's steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..config import TransformerConfig, VoxtralConfig
from ..errors import QuantizationError
from ..manifest import MAX_DELAY_TOKENS, Tokens
from ..quant.recipe import Recipe, Rule
from . import ops

MASKED = -1e30  # far below any logit, finite because WGSL has no infinity


@dataclass(frozen=True, slots=True)
class Build:
    """What every module of one precision is made of."""

    dtype: torch.dtype  # of activations, scales and caches
    recipe: Recipe
    standard: bool = False  # whether graphs hold operators of the ONNX standard alone

    def parameter(self, *shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
        """A placeholder: its values come from the checkpoint."""
        return nn.Parameter(torch.empty(shape, dtype=dtype or self.dtype), requires_grad=False)

    def linear(
        self, name: str, in_features: int, out_features: int, bias: bool = False
    ) -> Linear | QuantizedLinear | DequantizedLinear:
        """The linear layer of that name, quantised where the recipe says so."""
        rule = self.recipe.rule_for(name)
        if rule is None:
            return Linear(self, in_features, out_features, bias)
        quantized = DequantizedLinear if self.standard else QuantizedLinear
        return quantized(self, rule, in_features, out_features, bias)

    def tied_embedding(self, name: str, vocab_size: int, hidden_size: int) -> Table:
        """The table that is both embedding and head."""
        rule = self.recipe.rule_for(name)
        if rule is None:
            return TiedEmbedding(self, vocab_size, hidden_size)
        quantized = DequantizedTiedEmbedding if self.standard else QuantizedTiedEmbedding
        return quantized(self, rule, name, vocab_size, hidden_size)


class WithConstants(nn.Module):
    """A module of which some parameters follow from no tensor of the checkpoint."""

    def constants(self) -> dict[str, np.ndarray]:
        """Their values, by name."""
        raise NotImplementedError


class Linear(nn.Module):
    """x @ weight + bias, weight stored [in_features, out_features] as MatMul wants it."""

    def __init__(self, build: Build, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.weight = build.parameter(in_features, out_features)
        self.bias = build.parameter(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class QuantizedLinear(nn.Module):
    """The same with block-quantised weights."""

    def __init__(self, build: Build, rule: Rule, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.rule = rule
        self.in_features = in_features
        self.accuracy_level = build.recipe.accuracy_level
        num_blocks = -(-in_features // rule.block_size)
        self.weight = build.parameter(
            out_features, num_blocks, rule.block_size * rule.bits // 8, dtype=torch.uint8
        )
        self.scales = build.parameter(out_features, num_blocks)
        packed_zeros = -(-num_blocks * rule.bits // 8)
        self.zero_points = (
            build.parameter(out_features, packed_zeros, dtype=torch.uint8)
            if rule.has_zero_points
            else None
        )
        self.bias = build.parameter(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.matmul_nbits(
            x,
            self.weight,
            self.scales,
            self.zero_points,
            self.bias,
            in_features=self.in_features,
            bits=self.rule.bits,
            block_size=self.rule.block_size,
            accuracy_level=self.accuracy_level,
        )


class DequantizedWeight(nn.Module):
    """A block-quantised weight for the standard's operators.

    Codes [in_features, out_features], blocks along the first.

    Zero points are always there, because the standard's default is 0. onnxruntime fuses
    DequantizeLinear and MatMul into the product of QuantizedLinear when it loads the graph, and
    only in this layout.
    """

    def __init__(self, build: Build, rule: Rule, in_features: int, out_features: int):
        super().__init__()
        if out_features * rule.bits % 8:
            raise QuantizationError(
                f"rule {rule.tensors!r}: {out_features} outputs do not fill whole bytes"
            )
        self.rule = rule
        num_blocks, row_bytes = -(-in_features // rule.block_size), out_features * rule.bits // 8
        self.weight = build.parameter(in_features, row_bytes, dtype=torch.uint8)
        self.scales = build.parameter(num_blocks, out_features)
        self.zero_points = build.parameter(num_blocks, row_bytes, dtype=torch.uint8)

    def dequantized(self) -> Tensor:
        """[in_features, out_features]."""
        rule = self.rule
        return ops.dequantize_linear(
            self.weight, self.scales, self.zero_points, bits=rule.bits, block_size=rule.block_size
        )


class DequantizedLinear(DequantizedWeight):
    """x @ weight + bias, the weight dequantised."""

    def __init__(self, build: Build, rule: Rule, in_features: int, out_features: int, bias: bool):
        super().__init__(build, rule, in_features, out_features)
        self.bias = build.parameter(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.dequantized()
        return y if self.bias is None else y + self.bias


class TiedEmbedding(nn.Module):
    """Embedding and head on one float table [vocab_size, hidden_size]."""

    def __init__(self, build: Build, vocab_size: int, hidden_size: int):
        super().__init__()
        self.weight = build.parameter(vocab_size, hidden_size)

    def embed(self, ids: Tensor) -> Tensor:
        return ops.gather(self.weight, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return ops.project(hidden, self.weight)


class QuantizedTiedEmbedding(nn.Module):
    """The same on one block-quantised table.

    Gathering wants its scales with a third axis, on the same bytes.
    """

    def __init__(self, build: Build, rule: Rule, name: str, vocab_size: int, hidden_size: int):
        super().__init__()
        if rule.has_zero_points:
            raise QuantizationError(
                f"{name}: method {rule.method} has zero points, but no gather with zero points "
                "runs on every host; "
                "use a symmetric method for the tied table"
            )
        if hidden_size % rule.block_size:
            raise QuantizationError(
                f"{name}: rows of {hidden_size} do not divide into blocks of {rule.block_size}"
            )
        self.rule = rule
        self.hidden_size = hidden_size
        self.accuracy_level = build.recipe.accuracy_level
        num_blocks = hidden_size // rule.block_size
        self.weight = build.parameter(
            vocab_size, num_blocks, rule.block_size * rule.bits // 8, dtype=torch.uint8
        )
        self.scales = build.parameter(vocab_size, num_blocks)
        self.gather_scales = build.parameter(vocab_size, num_blocks, 1)

    def embed(self, ids: Tensor) -> Tensor:
        return ops.gather_block_quantized(
            ids,
            self.weight,
            self.gather_scales,
            bits=self.rule.bits,
            block_size=self.rule.block_size,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        return ops.matmul_nbits(
            hidden,
            self.weight,
            self.scales,
            None,
            None,
            in_features=self.hidden_size,
            bits=self.rule.bits,
            block_size=self.rule.block_size,
            accuracy_level=self.accuracy_level,
        )


class DequantizedTiedEmbedding(DequantizedWeight):
    """The same for the standard's operators, which gather whole bytes.

    Of a pair of codes the wanted one is cut out.
    """

    def __init__(self, build: Build, rule: Rule, name: str, vocab_size: int, hidden_size: int):
        super().__init__(build, rule, hidden_size, vocab_size)
        if rule.has_zero_points:
            raise QuantizationError(
                f"{name}: method {rule.method} has zero points; use a symmetric method for the "
                "table"
            )
        if hidden_size % rule.block_size:
            raise QuantizationError(
                f"{name}: rows of {hidden_size} do not divide into blocks of {rule.block_size}"
            )
        # the same bytes as bytes
        self.gather_weight = build.parameter(*self.weight.shape, dtype=torch.uint8)

    def embed(self, ids: Tensor) -> Tensor:
        ids, shape = ids.flatten(), ids.shape
        # [num_blocks, block_size, n]
        codes = self.codes(ids).unflatten(0, (-1, self.rule.block_size))
        scales = ops.gather_columns(self.scales, ids)[:, None]
        rows = ((codes - 2 ** (self.rule.bits - 1)) * scales).flatten(0, 1).T
        return rows.unflatten(0, shape)

    def codes(self, ids: Tensor) -> Tensor:
        """[hidden_size, n] in the activation type."""
        if self.rule.bits == 8:
            return ops.gather_columns(self.gather_weight, ids).to(self.scales.dtype)
        pair = ids.float() / 2  # exact, and arithmetic that every host has
        first = pair.floor()
        codes = ops.gather_columns(self.gather_weight, first.long()).to(self.scales.dtype)
        high = (codes / 16).floor()
        return torch.where(pair > first, high, codes - 16 * high)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.dequantized()


Table = TiedEmbedding | QuantizedTiedEmbedding | DequantizedTiedEmbedding


class RMSNorm(nn.Module):
    """RMS norm that also adds the pending branch to the residual stream."""

    def __init__(self, build: Build, hidden_size: int, eps: float):
        super().__init__()
        self.weight, self.eps = build.parameter(hidden_size), eps

    def forward(self, residual: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
        """(norm(residual + branch), residual + branch)."""
        if branch is None:
            return ops.rms_norm(residual, self.weight, self.eps), residual
        return ops.add_rms_norm(residual, branch, self.weight, self.eps)


class DelayGain(nn.Module):
    """The delay network 1 + linear2(gelu(linear1(t))) as a table over every delay."""

    def __init__(self, build: Build, hidden_size: int):
        super().__init__()
        self.table = build.parameter(MAX_DELAY_TOKENS + 1, 1, hidden_size)

    def forward(self, num_delay_tokens: Tensor) -> Tensor:
        return ops.gather(self.table, num_delay_tokens)  # [batch, 1, hidden_size]


class Attention(nn.Module):
    """Grouped-query attention over a window of a fixed buffer."""

    def __init__(self, build: Build, name: str, stack: TransformerConfig, bias: bool):
        super().__init__()
        self.num_heads = stack.num_attention_heads
        self.kv_heads = stack.num_key_value_heads
        self.window = stack.sliding_window
        self.q_proj = build.linear(f"{name}.q_proj", stack.hidden_size, stack.q_size, bias)
        self.k_proj = build.linear(f"{name}.k_proj", stack.hidden_size, stack.kv_size)
        self.v_proj = build.linear(f"{name}.v_proj", stack.hidden_size, stack.kv_size, bias)
        self.o_proj = build.linear(f"{name}.o_proj", stack.q_size, stack.hidden_size, bias)

    def forward(
        self, x: Tensor, at: Positions, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if at.grows:
            past_key, past_value = (
                ops.last_rows(past, self.window - 1) for past in (past_key, past_value)
            )
        out, present_key, present_value = ops.group_query_attention(
            ops.rotary_embedding(self.q_proj(x), at.cos, at.sin, num_heads=self.num_heads),
            ops.rotary_embedding(self.k_proj(x), at.cos, at.sin, num_heads=self.kv_heads),
            self.v_proj(x),
            past_key,
            past_value,
            at.seqlens_k,
            at.total_sequence_length,
            num_heads=self.num_heads,
            window=self.window,
            grows=at.grows,
            view=at.view,
        )
        return self.o_proj(out), present_key, present_value


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, build: Build, name: str, stack: TransformerConfig, bias: bool):
        super().__init__()
        self.gate_proj = build.linear(
            f"{name}.gate_proj", stack.hidden_size, stack.intermediate_size
        )
        self.up_proj = build.linear(f"{name}.up_proj", stack.hidden_size, stack.intermediate_size)
        self.down_proj = build.linear(
            f"{name}.down_proj", stack.intermediate_size, stack.hidden_size, bias
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.silu(self.gate_proj(x)) * self.up_proj(x))


@dataclass(frozen=True, slots=True)
class Positions:
    """Where a call's rows stand: rotation by absolute position, writing by buffer row."""

    cos: Tensor  # [batch, seq, head_dim / 2]
    sin: Tensor
    seqlens_k: Tensor  # int32 [batch], buffer row of the last new position
    total_sequence_length: Tensor  # int32, the buffer's capacity
    # no buffers: of the past, the window is kept, and the new rows are put behind it
    grows: bool = False
    view: ops.View | None = None  # the rest in other words, where layers can share it

    @classmethod
    def behind(cls, past: Tensor, window: int, cos: Tensor, sin: Tensor) -> Positions:
        """Of rows that are put behind a past [1, heads, rows, head_dim]."""
        total = ops.size(past, 2).clamp(max=window - 1) + ops.size(cos, 1)
        return cls(cos, sin, (total - 1).int(), total.int().squeeze(), grows=True)


class Layer(nn.Module):
    """One pre-norm layer; encoder layers have biases, decoder layers a gain for the delay."""

    def __init__(
        self, build: Build, name: str, stack: TransformerConfig, *, bias: bool, delay: bool
    ):
        super().__init__()
        self.input_layernorm = RMSNorm(build, stack.hidden_size, stack.rms_norm_eps)
        self.self_attn = Attention(build, f"{name}.self_attn", stack, bias)
        self.post_attention_layernorm = RMSNorm(build, stack.hidden_size, stack.rms_norm_eps)
        self.ada_rms_norm = DelayGain(build, stack.hidden_size) if delay else None
        self.mlp = MLP(build, f"{name}.mlp", stack, bias)

    def forward(
        self,
        residual: Tensor,
        branch: Tensor | None,
        at: Positions,
        past_key: Tensor,
        past_value: Tensor,
        num_delay_tokens: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, residual = self.input_layernorm(residual, branch)
        attended, present_key, present_value = self.self_attn(x, at, past_key, past_value)
        x, residual = self.post_attention_layernorm(residual, attended)
        if self.ada_rms_norm is not None:
            x = x * self.ada_rms_norm(num_delay_tokens)
        return residual, self.mlp(x), present_key, present_value


class Stack(nn.Module):
    """All layers of one transformer and its final norm."""

    def __init__(
        self, build: Build, name: str, stack: TransformerConfig, *, bias: bool, delay: bool
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(build, f"{name}.layers.{i}", stack, bias=bias, delay=delay)
            for i in range(stack.num_hidden_layers)
        )
        self.norm = RMSNorm(build, stack.hidden_size, stack.rms_norm_eps)
        self.window = stack.sliding_window

    def run(
        self,
        x: Tensor,
        at: Positions,
        past: tuple[Tensor, ...],
        num_delay_tokens: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states and the present buffers, key and value of each layer in turn."""
        residual, branch, present = x, None, []
        if not at.grows:
            at = replace(at, view=ops.view_of(past[0], at.seqlens_k, x.shape[1], self.window))
        for i, layer in enumerate(self.layers):
            residual, branch, key, value = layer(
                residual, branch, at, past[2 * i], past[2 * i + 1], num_delay_tokens
            )
            present += [key, value]
        hidden, _ = self.norm(residual, branch)
        return hidden, present


class Conv(nn.Module):
    """Weights of one convolution of the stem.

    Kernel 3, causal, padded on the left by the state of the last call.
    """

    def __init__(self, build: Build, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.weight = build.parameter(out_channels, in_channels, 3)
        self.bias = build.parameter(out_channels)
        self.stride = stride

    def forward(self, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(gelu(conv(x)), next state); the state is the last 3 - stride columns."""
        x = torch.cat((state, x), -1)
        y = F.conv1d(x, self.weight, self.bias, stride=self.stride)
        return F.gelu(y), x[..., -(3 - self.stride) :]


class Embedder(nn.Module):
    """The conv stem: 100 mel frames a second to 50 encoder frames."""

    def __init__(self, build: Build, n_mels: int, hidden_size: int):
        super().__init__()
        self.conv1 = Conv(build, n_mels, hidden_size, stride=1)
        self.conv2 = Conv(build, hidden_size, hidden_size, stride=2)


class AudioTower(Stack):
    """Conv stem and encoder layers."""

    def __init__(self, build: Build, config: VoxtralConfig):
        super().__init__(build, "audio_tower", config.encoder, bias=True, delay=False)
        self.embedder = Embedder(build, config.audio.n_mels, config.encoder.hidden_size)


class Projector(nn.Module):
    """Four joined encoder frames to one audio embedding."""

    def __init__(self, build: Build, in_features: int, out_features: int):
        super().__init__()
        self.linear_1 = build.linear("multi_modal_projector.linear_1", in_features, out_features)
        self.linear_2 = build.linear("multi_modal_projector.linear_2", out_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


class AudioEncoder(nn.Module):
    """Conv stem, encoder and adapter, however their caches are kept."""

    def __init__(self, build: Build, config: VoxtralConfig):
        super().__init__()
        joined = config.encoder.hidden_size * config.encoder.downsample_factor
        self.dtype, self.joined = build.dtype, joined
        self.audio_tower = AudioTower(build, config)
        self.multi_modal_projector = Projector(build, joined, config.decoder.hidden_size)

    def encode(
        self, x: Tensor, at: Positions, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode the stem's output to audio embeddings, and return them with present.

        The stem's output is [1, hidden_size, 4 * chunk], the embeddings are [1, chunk,
        hidden_size].
        """
        hidden, present = self.audio_tower.run(x.transpose(1, 2), at, past)
        return self.multi_modal_projector(hidden.reshape(1, -1, self.joined)), present


class Encoder(AudioEncoder):
    """8c mel frames -> 4c encoder frames -> c audio embeddings."""

    def forward(
        self,
        input_features: Tensor,  # float32 [1, n_mels, 8 * chunk]
        conv1_state: Tensor,  # [1, n_mels, 2]
        conv2_state: Tensor,  # [1, hidden_size, 1]
        cos: Tensor,  # [1, 4 * chunk, head_dim / 2]
        sin: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        x, conv1_state = self.audio_tower.embedder.conv1(conv1_state, input_features.to(self.dtype))
        # [1, hidden_size, 4 * chunk]
        x, conv2_state = self.audio_tower.embedder.conv2(conv2_state, x)
        audio_embeds, present = self.encode(
            x, Positions(cos, sin, seqlens_k, total_sequence_length), past
        )
        return audio_embeds, conv1_state, conv2_state, *present


class LanguageModel(Stack):
    """Tied table and decoder layers."""

    def __init__(self, build: Build, config: VoxtralConfig):
        super().__init__(build, "language_model", config.decoder, bias=False, delay=True)
        self.embed_tokens = build.tied_embedding(
            "language_model.embed_tokens", config.decoder.vocab_size, config.decoder.hidden_size
        )


class Decoder(WithConstants):
    """One position or several: audio embedding + token -> next token."""

    def __init__(self, build: Build, config: VoxtralConfig, tokens: Tokens):
        super().__init__()
        self.blank = tokens.streaming_pad
        self.language_model = LanguageModel(build, config)
        self.blank_mask = build.parameter(config.decoder.vocab_size, dtype=torch.float32)
        self.token_ids = build.parameter(config.decoder.vocab_size, dtype=torch.float32)

    def constants(self) -> dict[str, np.ndarray]:
        """MASKED at the blank, else 0.

        And every id, because WebGPU has no kernels that take ArgMax's int64 further.
        """
        mask = np.zeros(tuple(self.blank_mask.shape), np.float32)
        mask[self.blank] = MASKED
        return {"blank_mask": mask, "token_ids": np.arange(len(mask), dtype=np.float32)}

    def forward(
        self,
        input_ids: Tensor,  # int64 [batch, seq]
        audio_embeds: Tensor,  # [batch, seq, hidden_size]
        num_delay_tokens: Tensor,  # int64 [batch]
        cos: Tensor,  # [batch, seq, head_dim / 2]
        sin: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        blank_penalty: Tensor,  # float32 [batch, seq]
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        x = self.language_model.embed_tokens.embed(input_ids) + audio_embeds
        at = Positions(cos, sin, seqlens_k, total_sequence_length)
        hidden, present = self.language_model.run(x, at, past, num_delay_tokens)
        logits = self.language_model.embed_tokens.logits(hidden).float()  # [batch, seq, vocab_size]
        step = self.choose(logits, blank_penalty)
        return step[..., 0].long(), step, logits, *present

    def choose(self, logits: Tensor, blank_penalty: Tensor) -> Tensor:
        """Greedy choice with the blank held back.

        Float32 [batch, seq, 3] of id, logprob and blank margin.

        A tie goes to the lower id, as ArgMax has it. Ids are exact in float32 below 2^24.
        """
        word, index = ops.highest(logits + self.blank_mask)
        best = ops.gather(self.token_ids, index).squeeze(-1)
        blank, blank_id = logits[..., self.blank], float(self.blank)
        held_back = blank - blank_penalty
        tied = torch.where(held_back == word, best.clamp(max=blank_id), best)
        chosen = torch.where(held_back > word, blank_id, tied)
        chosen_logit = torch.where(chosen == blank_id, blank, word)
        highest = torch.maximum(blank, word)
        log_sum = highest + (logits - highest[..., None]).exp().sum(-1).log()
        return torch.stack((chosen, chosen_logit - log_sum, blank - word), -1)
