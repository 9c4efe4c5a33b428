"""Linear layers and tied tables in floats, 4 or 8 bits, and the factory that chooses among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import QuantizationError
from ...quant.recipe import Recipe, Rule
from . import ops

MASKED = -1e30  # far below any logit, finite because WGSL has no infinity


@dataclass(frozen=True, slots=True)
class ModuleFactory:
    """A factory of the parameters, linear layers and tied tables of one precision."""

    dtype: torch.dtype  # type of activations, scales and caches
    recipe: Recipe
    standard: bool = False  # whether graphs have operators of the ONNX standard only

    def parameter(self, *shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
        """Return a parameter of some shape; its values come from the checkpoint."""
        return nn.Parameter(torch.empty(shape, dtype=dtype or self.dtype), requires_grad=False)

    def linear(
        self, name: str, in_features: int, out_features: int, bias: bool = False
    ) -> Linear | QuantizedLinear | DequantizedLinear:
        """Return the linear layer of that name, quantised where the recipe has a rule for it."""
        rule = self.recipe.rule_for(name)
        if rule is None:
            return Linear(self, in_features, out_features, bias)
        quantized = DequantizedLinear if self.standard else QuantizedLinear
        return quantized(self, rule, in_features, out_features, bias)

    def tied_embedding(self, name: str, vocab_size: int, hidden_size: int) -> Table:
        """Return the table that is both embedding and head, quantised as `linear`."""
        rule = self.recipe.rule_for(name)
        if rule is None:
            return TiedEmbedding(self, vocab_size, hidden_size)
        quantized = DequantizedTiedEmbedding if self.standard else QuantizedTiedEmbedding
        return quantized(self, rule, name, vocab_size, hidden_size)


class WithConstants(nn.Module):
    """A module with parameters that are not made from tensors of the checkpoint."""

    def constants(self) -> dict[str, np.ndarray]:
        """Return the values of those parameters by name."""
        raise NotImplementedError


class Linear(nn.Module):
    """x @ weight + bias, with the weight stored as [in_features, out_features] for MatMul."""

    def __init__(self, build: ModuleFactory, in_features: int, out_features: int, bias: bool):
        super().__init__()
        self.weight = build.parameter(in_features, out_features)
        self.bias = build.parameter(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class QuantizedLinear(nn.Module):
    """A linear layer with block-quantised weights, stored for MatMulNBits."""

    def __init__(
        self, build: ModuleFactory, rule: Rule, in_features: int, out_features: int, bias: bool
    ):
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
    """A block-quantised weight, stored for the standard operators DequantizeLinear and MatMul.

    Its codes are [in_features, out_features], in blocks along the first axis. Zero points are
    always stored, because the standard's default is 0. onnxruntime fuses the two operators into
    MatMulNBits when it loads the graph, but only in this layout.
    """

    def __init__(self, build: ModuleFactory, rule: Rule, in_features: int, out_features: int):
        super().__init__()
        if out_features * rule.bits % 8:
            raise QuantizationError(
                f"rule {rule.tensors!r}: {out_features} outputs do not fill whole bytes; use 8 bits"
            )
        self.rule = rule
        num_blocks, row_bytes = -(-in_features // rule.block_size), out_features * rule.bits // 8
        self.weight = build.parameter(in_features, row_bytes, dtype=torch.uint8)
        self.scales = build.parameter(num_blocks, out_features)
        self.zero_points = build.parameter(num_blocks, row_bytes, dtype=torch.uint8)

    def dequantized(self) -> Tensor:
        """Return the weight as floats [in_features, out_features]."""
        rule = self.rule
        return ops.dequantize_linear(
            self.weight, self.scales, self.zero_points, bits=rule.bits, block_size=rule.block_size
        )


class DequantizedLinear(DequantizedWeight):
    """x @ weight + bias, with the weight dequantised in the graph."""

    def __init__(
        self, build: ModuleFactory, rule: Rule, in_features: int, out_features: int, bias: bool
    ):
        super().__init__(build, rule, in_features, out_features)
        self.bias = build.parameter(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.dequantized()
        return y if self.bias is None else y + self.bias


class TiedEmbedding(nn.Module):
    """Embedding and head on one float table [vocab_size, hidden_size]."""

    def __init__(self, build: ModuleFactory, vocab_size: int, hidden_size: int):
        super().__init__()
        self.weight = build.parameter(vocab_size, hidden_size)

    def embed(self, ids: Tensor) -> Tensor:
        return ops.gather(self.weight, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return ops.project(hidden, self.weight)


class QuantizedTiedEmbedding(nn.Module):
    """Embedding and head on one block-quantised table, for MatMulNBits and GatherBlockQuantized.

    The gather takes the same scales, on the same bytes, with a third axis.
    """

    def __init__(
        self, build: ModuleFactory, rule: Rule, name: str, vocab_size: int, hidden_size: int
    ):
        super().__init__()
        if rule.has_zero_points:
            raise QuantizationError(
                f"{name}: method {rule.method} has zero points, but no gather with zero points "
                "runs on every host; use a symmetric method for the tied table"
            )
        if hidden_size % rule.block_size:
            raise QuantizationError(
                f"{name}: rows of {hidden_size} do not divide into blocks of {rule.block_size}; "
                "choose a smaller block_size"
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
    """Embedding and head on one block-quantised table, in operators of the ONNX standard only.

    Gather only takes whole bytes, so it gathers both 4-bit codes of a byte, and arithmetic selects
    the one that is needed.
    """

    def __init__(
        self, build: ModuleFactory, rule: Rule, name: str, vocab_size: int, hidden_size: int
    ):
        super().__init__(build, rule, hidden_size, vocab_size)
        if rule.has_zero_points:
            raise QuantizationError(
                f"{name}: method {rule.method} has zero points; use a symmetric method for the "
                "table"
            )
        if hidden_size % rule.block_size:
            raise QuantizationError(
                f"{name}: rows of {hidden_size} do not divide into blocks of {rule.block_size}; "
                "choose a smaller block_size"
            )
        # The same data as `weight`, which the graph declares as 4-bit codes, declared as bytes
        self.gather_weight = build.parameter(*self.weight.shape, dtype=torch.uint8)

    def embed(self, ids: Tensor) -> Tensor:
        ids, shape = ids.flatten(), ids.shape
        # [num_blocks, block_size, n]
        codes = self.codes(ids).unflatten(0, (-1, self.rule.block_size))
        scales = ops.gather_columns(self.scales, ids)[:, None]
        rows = ((codes - 2 ** (self.rule.bits - 1)) * scales).flatten(0, 1).T
        return rows.unflatten(0, shape)

    def codes(self, ids: Tensor) -> Tensor:
        """Return the codes [hidden_size, n] of ids [n], in the activation type."""
        if self.rule.bits == 8:
            return ops.gather_columns(self.gather_weight, ids).to(self.scales.dtype)
        pair = ids.float() / 2  # exact, in arithmetic that every host supports
        first = pair.floor()
        codes = ops.gather_columns(self.gather_weight, first.long()).to(self.scales.dtype)
        high = (codes / 16).floor()
        return torch.where(pair > first, high, codes - 16 * high)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.dequantized()


Table = TiedEmbedding | QuantizedTiedEmbedding | DequantizedTiedEmbedding
