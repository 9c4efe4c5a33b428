"""Linear layers and tied tables in floats, 4 or 8 bits, made of parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import ops
from .parameters import Kind, Part


def parameter(part: Part, name: str) -> nn.Parameter:
    """Return a parameter of a part; its values come from the checkpoint."""
    found = part.parameters[name]
    values = torch.empty(found.shape, dtype=getattr(torch, found.dtype))
    return nn.Parameter(values, requires_grad=False)


def optional_parameter(part: Part, name: str) -> nn.Parameter | None:
    """Return a parameter of a part, None where it lacks that."""
    return parameter(part, name) if name in part.parameters else None


class Linear(nn.Module):
    """x @ weight + bias, with the weight stored as [in_features, out_features] for MatMul."""

    def __init__(self, part: Part):
        super().__init__()
        self.weight = parameter(part, "weight")
        self.bias = optional_parameter(part, "bias")

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class QuantizedLinear(nn.Module):
    """A linear layer with block-quantised weights, stored for MatMulNBits."""

    def __init__(self, part: Part):
        super().__init__()
        assert part.rule is not None
        self.rule, self.accuracy_level = part.rule, part.accuracy_level
        self.in_features = part.in_features
        self.weight = parameter(part, "weight")
        self.scales = parameter(part, "scales")
        self.zero_points = optional_parameter(part, "zero_points")
        self.bias = optional_parameter(part, "bias")

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

    onnxruntime fuses the two operators into MatMulNBits when it loads the graph, but only in this
    layout.
    """

    def __init__(self, part: Part):
        super().__init__()
        assert part.rule is not None
        self.rule = part.rule
        self.weight = parameter(part, "weight")
        self.scales = parameter(part, "scales")
        self.zero_points = parameter(part, "zero_points")

    def dequantized(self) -> Tensor:
        """Return the weight as floats [in_features, out_features]."""
        rule = self.rule
        return ops.dequantize_linear(
            self.weight, self.scales, self.zero_points, bits=rule.bits, block_size=rule.block_size
        )


class DequantizedLinear(DequantizedWeight):
    """x @ weight + bias, with the weight dequantised in the graph."""

    def __init__(self, part: Part):
        super().__init__(part)
        self.bias = optional_parameter(part, "bias")

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.dequantized()
        return y if self.bias is None else y + self.bias


class TiedEmbedding(nn.Module):
    """Embedding and head on one float table [vocab_size, hidden_size]."""

    def __init__(self, part: Part):
        super().__init__()
        self.weight = parameter(part, "weight")

    def embed(self, ids: Tensor) -> Tensor:
        return ops.gather(self.weight, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return ops.project(hidden, self.weight)


class QuantizedTiedEmbedding(nn.Module):
    """Embedding and head on one block-quantised table, for MatMulNBits and GatherBlockQuantized.

    The gather takes the same scales, on the same bytes, with a third axis.
    """

    def __init__(self, part: Part):
        super().__init__()
        assert part.rule is not None
        self.rule, self.accuracy_level = part.rule, part.accuracy_level
        self.hidden_size = part.in_features
        self.weight = parameter(part, "weight")
        self.scales = parameter(part, "scales")
        self.gather_scales = parameter(part, "gather_scales")

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

    def __init__(self, part: Part):
        super().__init__(part)
        # The same data as `weight`, which the graph declares as 4-bit codes, declared as bytes
        self.gather_weight = parameter(part, "gather_weight")

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

_LINEARS: dict[Kind, type[Linear | QuantizedLinear | DequantizedLinear]] = {
    Kind.LINEAR: Linear,
    Kind.QUANTIZED_LINEAR: QuantizedLinear,
    Kind.DEQUANTIZED_LINEAR: DequantizedLinear,
}
_TABLES: dict[Kind, type[Table]] = {
    Kind.TABLE: TiedEmbedding,
    Kind.QUANTIZED_TABLE: QuantizedTiedEmbedding,
    Kind.DEQUANTIZED_TABLE: DequantizedTiedEmbedding,
}


def linear(part: Part) -> Linear | QuantizedLinear | DequantizedLinear:
    """Return the module of a linear layer."""
    return _LINEARS[part.kind](part)


def table(part: Part) -> Table:
    """Return the module of a tied table."""
    return _TABLES[part.kind](part)
