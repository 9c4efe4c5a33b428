"""Fused operators: plain PyTorch when run, one ONNX node when traced.

Where only the standard's operators may be used, some are traced as several nodes. The plain form is
the reference that tests compare the runtime's kernels with, so it follows the operator's contract.
Attention is in attention.py. Sources: ONNX Runtime contrib operator schemas; ONNX opset 23.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from . import nodes
from .attributes import gather_block_quantized_attributes, matmul_nbits_attributes


def matmul_nbits(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    bias: Tensor | None,
    *,
    in_features: int,
    bits: int,
    block_size: int,
    accuracy_level: int,
) -> Tensor:
    """Multiply `x` by the transpose of a block-quantised weight.

    Args:
        x: [..., K].
        weight: uint8 codes [N, num_blocks, block_size * bits / 8].
        scales: [N, num_blocks].
        zero_points: uint8 [N, ceil(num_blocks * bits / 8)]; None for the middle code everywhere.
        bias: [N], or None.
        in_features: K.
        bits: of a code, 4 or 8.
        block_size: codes in a block.
        accuracy_level: MatMulNBits' attribute: 0 multiplies as `x` is, 4 rounds `x` to 8 bits.

    Returns:
        [..., N].
    """
    if nodes.is_tracing():
        attributes = matmul_nbits_attributes(
            weight.shape[0], in_features, bits, block_size, accuracy_level
        )
        inputs = _without_trailing_none([x, weight, scales, zero_points, None, bias])
        return nodes.emit(
            "com.microsoft::MatMulNBits", inputs, attributes, x, (*x.shape[:-1], weight.shape[0])
        )
    values = dequantize(weight, scales, zero_points, bits).flatten(1)[:, :in_features]
    return F.linear(x, values.to(x.dtype), bias)


def gather_block_quantized(
    ids: Tensor, weight: Tensor, scales: Tensor, *, bits: int, block_size: int
) -> Tensor:
    """Gather rows of a symmetric block-quantised table and dequantise them.

    Args:
        ids: [...].
        weight: uint8 codes [V, num_blocks, block_size * bits / 8].
        scales: [V, num_blocks, 1].
        bits: of a code, 4 or 8.
        block_size: codes in a block.

    Returns:
        [..., num_blocks * block_size].
    """
    if nodes.is_tracing():
        attributes = gather_block_quantized_attributes(bits, block_size)
        shape = (*ids.shape, weight.shape[1], block_size)
        rows = nodes.emit(
            "com.microsoft::GatherBlockQuantized", [weight, ids, scales], attributes, scales, shape
        )
    else:
        rows = dequantize(weight[ids], scales[ids].squeeze(-1), None, bits)
    return rows.flatten(-2)


def gather(table: Tensor, ids: Tensor) -> Tensor:
    """Gather rows of a float table [V, ...] by ids; the result is [*ids.shape, ...]."""
    if nodes.is_tracing():
        return nodes.emit(
            "Gather", [table, ids], {"axis": 0}, table, (*ids.shape, *table.shape[1:])
        )
    return table[ids]


def gather_columns(table: Tensor, ids: Tensor) -> Tensor:
    """Gather columns [K, n] of a table [K, V] by ids [n]."""
    if nodes.is_tracing():
        return nodes.emit("Gather", [table, ids], {"axis": 1}, table, (table.shape[0], *ids.shape))
    return table[:, ids]


def dequantize_linear(
    weight: Tensor, scales: Tensor, zero_points: Tensor, *, bits: int, block_size: int
) -> Tensor:
    """Dequantise a weight [K, N] that is quantised in blocks along K and packed along N.

    The node takes 4-bit types, which PyTorch lacks: passes/packed_codes.py gives the initializers
    these types.

    Args:
        weight: uint8 codes [K, N * bits / 8].
        scales: [ceil(K / block_size), N].
        zero_points: uint8 [ceil(K / block_size), N * bits / 8].
        bits: of a code, 4 or 8.
        block_size: codes in a block.
    """
    if nodes.is_tracing():
        attributes = {"axis": 0, "block_size": block_size}
        shape = (weight.shape[0], scales.shape[1])
        return nodes.emit(
            "DequantizeLinear", [weight, scales, zero_points], attributes, scales, shape
        )

    def of_rows(blocks: Tensor) -> Tensor:
        return blocks.repeat_interleave(block_size, 0)[: weight.shape[0]]

    return (
        (_codes(weight, bits) - of_rows(_codes(zero_points, bits))) * of_rows(scales).float()
    ).to(scales.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) * weight over the last axis; squares are summed in float32."""
    if nodes.is_tracing():
        attributes = {"axis": -1, "epsilon": eps, "stash_type": 1}
        operator = "SimplifiedLayerNormalization" if nodes.is_contrib() else "RMSNormalization"
        return nodes.emit(operator, [x, weight], attributes, x, x.shape)
    return F.rms_norm(x.float(), x.shape[-1:], None, eps).to(x.dtype) * weight


def add_rms_norm(x: Tensor, skip: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return rms_norm(x + skip), and x + skip."""
    if nodes.is_contrib():
        statistics = (*x.shape[:-1], 1)  # two optional outputs that nothing reads
        normed, _, _, total = nodes.emit_several(
            "com.microsoft::SkipSimplifiedLayerNormalization",
            [x, skip, weight],
            {"epsilon": eps},
            x,
            [x.shape, statistics, statistics, x.shape],
        )
        return normed, total
    total = x + skip
    return rms_norm(total, weight, eps), total


def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor, *, num_heads: int) -> Tensor:
    """Rotate the half-split pairs of `x` by `cos` and `sin`.

    x: [batch, seq, num_heads * head_dim]; cos, sin: [batch, seq, head_dim / 2].
    """
    if nodes.is_tracing():
        attributes = {"num_heads": num_heads, "interleaved": 0}
        return nodes.emit("RotaryEmbedding", [x, cos, sin], attributes, x, x.shape)
    heads = x.unflatten(-1, (num_heads, -1))
    half = heads.shape[-1] // 2
    a, b = heads[..., :half], heads[..., half:]
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def columns(x: Tensor, first: Tensor, count: int) -> Tensor:
    """Return `count` columns of `x` [batch, channels, n], in each from another on, int [batch]."""
    index = first[:, None, None].long() + torch.arange(count)
    return x.gather(2, index.expand(-1, x.shape[1], -1))


def size(x: Tensor, axis: int) -> Tensor:
    """Return the length of an axis as int64 [1], computed when the graph runs."""
    if nodes.is_tracing():
        return nodes.emit(
            "Shape", [x], {"start": axis, "end": axis + 1}, torch.empty(0, dtype=torch.int64), (1,)
        )
    return torch.tensor([x.shape[axis]])


def digit(x: Tensor, base: int, place: int) -> Tensor:
    """Return a digit of whole numbers: x // base^place % base."""
    if nodes.is_tracing():
        value, base_value = torch.full((), base**place), torch.full((), base)
        quotient = nodes.emit("Div", [x, value], {}, x, x.shape) if place else x
        return nodes.emit("Mod", [quotient, base_value], {}, x, x.shape)
    return x // base**place % base


def highest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest values along the last axis, and the first index of each, with axis kept.

    The values are gathered by index, because ReduceMax takes 7 ms on CUDA for more than one row;
    but not in the standard's operators, since onnx.reference only gathers elements along axes of up
    to 64.
    """
    index = x.argmax(-1, keepdim=True)
    values = (
        x.amax(-1)
        if nodes.is_tracing() and not nodes.is_contrib()
        else x.gather(-1, index).squeeze(-1)
    )
    return values, index


def silu(x: Tensor) -> Tensor:
    """Return x * sigmoid(x)."""
    if nodes.is_contrib():
        return nodes.emit("com.microsoft::QuickGelu", [x], {"alpha": 1.0}, x, x.shape)
    return F.silu(x)


def project(x: Tensor, table: Tensor) -> Tensor:
    """Multiply `x` by the transpose of a float table, without copying the table.

    x: [batch, seq, K]; table: [N, K].
    """
    if nodes.is_tracing():
        batch, seq, size = x.shape
        rows = x.reshape(-1, size)
        out = nodes.emit("Gemm", [rows, table], {"transB": 1}, x, (rows.shape[0], table.shape[0]))
        return out.reshape(batch, seq, -1)
    return F.linear(x, table)


def dequantize(weight: Tensor, scales: Tensor, zero_points: Tensor | None, bits: int) -> Tensor:
    """Dequantise packed codes to float32 [..., num_blocks, block_size].

    Args:
        weight: uint8 codes [..., num_blocks, block_size * bits / 8].
        scales: [..., num_blocks].
        zero_points: uint8 [..., ceil(num_blocks * bits / 8)]; None for the middle code everywhere.
        bits: of a code, 4 or 8.
    """
    codes = _codes(weight, bits)
    if zero_points is None:
        return (codes - 2.0 ** (bits - 1)) * scales[..., None].float()
    zeros = _codes(zero_points, bits)[..., : scales.shape[-1]]
    return (codes - zeros[..., None]) * scales[..., None].float()


def _codes(packed: Tensor, bits: int) -> Tensor:
    if bits == 4:
        packed = torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
    return packed.float()


def _without_trailing_none(inputs: list[Tensor | None]) -> list[Tensor | None]:
    while inputs[-1] is None:
        inputs.pop()
    return inputs
