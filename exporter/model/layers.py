"""Layers of encoder and decoder, written for tracing.

Parameter names are the checkpoint's names (exporter/checkpoint/names.py), so a traced initializer
has the name of its tensor. Run without tracing, the same modules are the tests' float reference.
MODEL.md numbers the algorithm's steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from ...config import TransformerConfig
from . import ops
from .linear import linear, parameter
from .parameters import Part, Parts


class RMSNorm(nn.Module):
    """RMS norm that also adds the pending branch to the residual stream."""

    def __init__(self, part: Part, eps: float):
        super().__init__()
        self.weight, self.eps = parameter(part, "weight"), eps

    def forward(self, residual: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return norm(residual + branch), and residual + branch."""
        if branch is None:
            return ops.rms_norm(residual, self.weight, self.eps), residual
        return ops.add_rms_norm(residual, branch, self.weight, self.eps)


class DelayGain(nn.Module):
    """The delay network 1 + linear2(gelu(linear1(t))) as a table over every delay."""

    def __init__(self, part: Part):
        super().__init__()
        self.table = parameter(part, "table")

    def forward(self, num_delay_tokens: Tensor) -> Tensor:
        return ops.gather(self.table, num_delay_tokens)  # [batch, 1, hidden_size]


class Attention(nn.Module):
    """Grouped-query attention over a sliding window of cached keys and values."""

    def __init__(self, parts: Parts, name: str, stack: TransformerConfig):
        super().__init__()
        self.num_heads = stack.num_attention_heads
        self.kv_heads = stack.num_key_value_heads
        self.window = stack.sliding_window
        self.q_proj = linear(parts[f"{name}.q_proj"])
        self.k_proj = linear(parts[f"{name}.k_proj"])
        self.v_proj = linear(parts[f"{name}.v_proj"])
        self.o_proj = linear(parts[f"{name}.o_proj"])

    def forward(
        self, x: Tensor, at: Positions | PagedPositions, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(at, Positions) and at.grows:
            past_key, past_value = (
                ops.last_rows(past, self.window - 1) for past in (past_key, past_value)
            )
        query = ops.rotary_embedding(self.q_proj(x), at.cos, at.sin, num_heads=self.num_heads)
        key = ops.rotary_embedding(self.k_proj(x), at.cos, at.sin, num_heads=self.kv_heads)
        value = self.v_proj(x)
        if isinstance(at, PagedPositions):
            out, present_key, present_value = ops.paged_attention(
                query,
                key,
                value,
                past_key,
                past_value,
                at.pages,
                num_heads=self.num_heads,
                window=self.window,
            )
            return self.o_proj(out), present_key, present_value
        out, present_key, present_value = ops.group_query_attention(
            query,
            key,
            value,
            past_key,
            past_value,
            at.seqlens_k,
            at.total_sequence_length,
            num_heads=self.num_heads,
            window=self.window,
            grows=at.grows,
            query_seqlens=at.query_seqlens,
            view=at.view,
        )
        return self.o_proj(out), present_key, present_value


class MLP(nn.Module):
    """The SwiGLU feed-forward network."""

    def __init__(self, parts: Parts, name: str):
        super().__init__()
        self.gate_proj = linear(parts[f"{name}.gate_proj"])
        self.up_proj = linear(parts[f"{name}.up_proj"])
        self.down_proj = linear(parts[f"{name}.down_proj"])

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.silu(self.gate_proj(x)) * self.up_proj(x))


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions of a call's rows: absolute ones for rotation, cache rows for keys and values."""

    cos: Tensor  # [batch, seq, head_dim / 2]
    sin: Tensor  # [batch, seq, head_dim / 2]
    seqlens_k: Tensor  # int32 [batch], cache row of the last new position
    total_sequence_length: Tensor  # int32, the cache's capacity
    # int32 [batch], how many of the rows are positions; those behind are padding. None for all
    query_seqlens: Tensor | None = None
    # The cache is no fixed buffer: the window's part of the past is kept, new rows are appended
    grows: bool = False
    view: ops.View | None = None  # derived from the others, and shared by the layers

    @classmethod
    def behind(cls, past: Tensor, window: int, cos: Tensor, sin: Tensor) -> Positions:
        """Return the positions of rows that are appended to a past [1, heads, rows, head_dim]."""
        total = ops.size(past, 2).clamp(max=window - 1) + ops.size(cos, 1)
        return cls(cos, sin, (total - 1).int(), total.int().squeeze(), grows=True)


@dataclass(frozen=True, slots=True)
class PagedPositions:
    """Positions of a call's rows, of one stream after the other, whose caches are pages."""

    cos: Tensor  # [1, rows, head_dim / 2]
    sin: Tensor  # [1, rows, head_dim / 2]
    pages: ops.Pages


class Layer(nn.Module):
    """A pre-norm layer; encoder layers have biases, decoder layers a gain that sets the delay."""

    def __init__(self, parts: Parts, name: str, stack: TransformerConfig):
        super().__init__()
        eps, gain = stack.rms_norm_eps, parts.get(f"{name}.ada_rms_norm")
        self.input_layernorm = RMSNorm(parts[f"{name}.input_layernorm"], eps)
        self.self_attn = Attention(parts, f"{name}.self_attn", stack)
        self.post_attention_layernorm = RMSNorm(parts[f"{name}.post_attention_layernorm"], eps)
        self.ada_rms_norm = DelayGain(gain) if gain else None
        self.mlp = MLP(parts, f"{name}.mlp")

    def forward(
        self,
        residual: Tensor,
        branch: Tensor | None,
        at: Positions | PagedPositions,
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

    def __init__(self, parts: Parts, name: str, stack: TransformerConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(parts, f"{name}.layers.{i}", stack) for i in range(stack.num_hidden_layers)
        )
        self.norm = RMSNorm(parts[f"{name}.norm"], stack.rms_norm_eps)
        self.window = stack.sliding_window

    def run(
        self,
        x: Tensor,
        at: Positions | PagedPositions,
        past: tuple[Tensor, ...],
        num_delay_tokens: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all layers on `x` [batch, seq, hidden_size].

        Returns:
            Final hidden states of the same shape, and the present caches, key and value of each
            layer in turn.
        """
        residual, branch, present = x, None, []
        if isinstance(at, Positions) and not at.grows:
            view = ops.view_of(past[0], at.seqlens_k, x.shape[1], self.window, at.query_seqlens)
            at = replace(at, view=view)
        for i, layer in enumerate(self.layers):
            residual, branch, key, value = layer(
                residual, branch, at, past[2 * i], past[2 * i + 1], num_delay_tokens
            )
            present += [key, value]
        hidden, _ = self.norm(residual, branch)
        return hidden, present
