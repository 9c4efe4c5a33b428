"""Fused operators: plain PyTorch when run, one ONNX node when traced.

Where only the standard's operators may be used, some are traced as several nodes. The plain form is
the reference that tests compare the runtime's kernels with, so it follows the operator's contract,
caches and row positions included. Sources: ONNX Runtime contrib operator schemas; ONNX opset 23.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .attributes import gather_block_quantized_attributes, matmul_nbits_attributes

_tracing = False
_contrib = False  # whether nodes may be contrib operators
# Places of the last inputs of GroupQueryAttention and PagedAttention
_QUERY_SEQLENS = _ATTENTION_METADATA = 16


@contextmanager
def tracing(*, standard: bool = False) -> Iterator[None]:
    """Emit ONNX nodes instead of computing, with `standard` those of the ONNX standard only.

    It sets a flag of its own, because `torch.onnx.is_in_onnx_export` is false under `torch.export`,
    which would silently trace the plain forms.
    """
    global _tracing, _contrib
    _tracing, _contrib = True, not standard
    try:
        yield
    finally:
        _tracing = _contrib = False


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
    if _tracing:
        attributes = matmul_nbits_attributes(
            weight.shape[0], in_features, bits, block_size, accuracy_level
        )
        inputs = _without_trailing_none([x, weight, scales, zero_points, None, bias])
        return _node(
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
    if _tracing:
        attributes = gather_block_quantized_attributes(bits, block_size)
        shape = (*ids.shape, weight.shape[1], block_size)
        rows = _node(
            "com.microsoft::GatherBlockQuantized", [weight, ids, scales], attributes, scales, shape
        )
    else:
        rows = dequantize(weight[ids], scales[ids].squeeze(-1), None, bits)
    return rows.flatten(-2)


def gather(table: Tensor, ids: Tensor) -> Tensor:
    """Gather rows of a float table [V, ...] by ids; the result is [*ids.shape, ...]."""
    if _tracing:
        return _node("Gather", [table, ids], {"axis": 0}, table, (*ids.shape, *table.shape[1:]))
    return table[ids]


def gather_columns(table: Tensor, ids: Tensor) -> Tensor:
    """Gather columns [K, n] of a table [K, V] by ids [n]."""
    if _tracing:
        return _node("Gather", [table, ids], {"axis": 1}, table, (table.shape[0], *ids.shape))
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
    if _tracing:
        attributes = {"axis": 0, "block_size": block_size}
        shape = (weight.shape[0], scales.shape[1])
        return _node("DequantizeLinear", [weight, scales, zero_points], attributes, scales, shape)

    def of_rows(blocks: Tensor) -> Tensor:
        return blocks.repeat_interleave(block_size, 0)[: weight.shape[0]]

    return (
        (_codes(weight, bits) - of_rows(_codes(zero_points, bits))) * of_rows(scales).float()
    ).to(scales.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) * weight over the last axis; squares are summed in float32."""
    if _tracing:
        attributes = {"axis": -1, "epsilon": eps, "stash_type": 1}
        operator = "SimplifiedLayerNormalization" if _contrib else "RMSNormalization"
        return _node(operator, [x, weight], attributes, x, x.shape)
    return F.rms_norm(x.float(), x.shape[-1:], None, eps).to(x.dtype) * weight


def add_rms_norm(x: Tensor, skip: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return rms_norm(x + skip), and x + skip."""
    if _contrib:
        statistics = (*x.shape[:-1], 1)  # two optional outputs that nothing reads
        normed, _, _, total = _nodes(
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
    if _tracing:
        attributes = {"num_heads": num_heads, "interleaved": 0}
        return _node("RotaryEmbedding", [x, cos, sin], attributes, x, x.shape)
    heads = x.unflatten(-1, (num_heads, -1))
    half = heads.shape[-1] // 2
    a, b = heads[..., :half], heads[..., half:]
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


@dataclass(frozen=True, slots=True)
class View:
    """The cache rows that a call writes and sees, the same in every layer."""

    index: Tensor  # int64 [batch, kv_heads, seq, 3]: the ScatterND index of each new row
    mask: Tensor  # bool [batch, 1, seq, capacity]: the rows that each new row attends to
    valid: Tensor | None = None  # bool [batch, seq]: the rows that are no padding; None for all


def view_of(
    buffer: Tensor,
    seqlens_k: Tensor,
    seq: int,
    window: int,
    query_seqlens: Tensor | None = None,
) -> View | None:
    """Return the view of `seq` new rows of a cache [batch, kv_heads, capacity, head_dim].

    With `query_seqlens` only so many of them are valid. Return None where contrib attention is
    traced, which derives it itself.
    """
    if _contrib:
        return None
    batch, heads, capacity, _ = buffer.shape
    num_new = seq if query_seqlens is None else query_seqlens[:, None]
    rows = seqlens_k[:, None].long() - (num_new - 1) + torch.arange(seq)  # [batch, seq]
    valid = None if query_seqlens is None else torch.arange(seq) < num_new
    axes = torch.arange(batch)[:, None, None], torch.arange(heads)[None, :, None], rows[:, None]
    distance = rows[:, :, None] - torch.arange(capacity)  # [batch, seq, capacity]
    mask = (distance >= 0) & (distance < window)
    index = torch.stack([axis.expand(batch, heads, seq) for axis in axes], -1)
    return View(index, mask[:, None], valid)


def group_query_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    seqlens_k: Tensor,
    total_sequence_length: Tensor,
    *,
    num_heads: int,
    window: int,
    grows: bool = False,
    query_seqlens: Tensor | None = None,
    view: View | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend causally from rotated rows to cached keys, and write the new rows into the cache.

    Of rows that are padding, the output is 0 and nothing is written.

    Args:
        query: [batch, seq, num_heads * head_dim], rotated.
        key: [batch, seq, kv_heads * head_dim], rotated.
        value: [batch, seq, kv_heads * head_dim].
        past_key: [batch, kv_heads, capacity, head_dim].
        past_value: the same shape.
        seqlens_k: int32 [batch], the cache row of the last new position.
        total_sequence_length: int32, the capacity.
        query_seqlens: int32 [batch], how many rows of `query` are new positions; those behind are
            padding. None for all.
        num_heads: query heads.
        window: the most keys that a query sees, its own included.
        grows: the past has no room for new rows, so the present is `seq` rows longer.
        view: the result of `view_of`, if it was computed before.

    Returns:
        The output, shaped like `query`, and the caches with the new rows.
    """
    batch, seq, _ = query.shape
    kv_heads, head_dim = past_key.shape[1], past_key.shape[3]
    capacity = past_key.shape[2] + seq if grows else past_key.shape[2]
    if _contrib:
        attributes = {
            "num_heads": num_heads,
            "kv_num_heads": kv_heads,
            "scale": head_dim**-0.5,
            "local_window_size": window,
        }
        inputs: list[Tensor | None] = [query, key, value, past_key, past_value]
        inputs += [seqlens_k, total_sequence_length]
        if query_seqlens is not None:
            inputs += [*[None] * (_QUERY_SEQLENS - len(inputs)), query_seqlens]
        present = (batch, kv_heads, capacity, head_dim)
        shapes = [query.shape, present, present]
        out, present_key, present_value = _nodes(
            "com.microsoft::GroupQueryAttention", inputs, attributes, query, shapes
        )
        return out, present_key, present_value

    # Write the new rows
    if grows:
        past_key, past_value = (F.pad(past, (0, 0, 0, seq)) for past in (past_key, past_value))
    view = view or view_of(past_key, seqlens_k, seq, window, query_seqlens)
    assert view is not None
    present_key = _write_rows(
        past_key, view, key.unflatten(-1, (kv_heads, head_dim)).transpose(1, 2)
    )
    present_value = _write_rows(
        past_value, view, value.unflatten(-1, (kv_heads, head_dim)).transpose(1, 2)
    )

    # Attend
    heads = query.unflatten(-1, (num_heads, head_dim)).transpose(1, 2)
    out = _attention(heads, present_key, present_value, view.mask).transpose(1, 2).flatten(-2)
    if view.valid is not None:
        out = out * view.valid[..., None]
    return out, present_key, present_value


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the rows of several streams are in caches [num_pages, page_rows, kv_heads, head_dim].

    A call's rows are those of its streams, one stream after the other; the pages of a stream may
    be anywhere. Names and contract are PagedAttention's.
    """

    cumulative_sequence_length: Tensor  # int32 [streams + 1], the first row of each, then their sum
    past_seqlens: Tensor  # int32 [streams], rows that a stream's pages hold
    block_table: Tensor  # int32 [streams, pages], the numbers of its pages
    slot_mapping: Tensor  # int32 [rows], page * page_rows + row to write to; -1 for padding
    attention_metadata: Tensor  # int32 [2], at least the most rows of a stream: new ones; all


def paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    pages: Pages,
    *,
    num_heads: int,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend causally from rotated rows to the pages of their streams, and write new rows there.

    Outputs of padding mean nothing.

    Args:
        query: [1, rows, num_heads * head_dim], rotated.
        key: [1, rows, kv_heads * head_dim], rotated.
        value: [1, rows, kv_heads * head_dim].
        key_pages: [num_pages, page_rows, kv_heads, head_dim].
        value_pages: the same shape.
        pages: of each stream.
        num_heads: query heads.
        window: the most keys that a query sees, its own included.

    Returns:
        The output, shaped like `query`, and the pages with the new rows.
    """
    kv_heads, head_dim = key_pages.shape[2:]
    query, key, value = query.squeeze(0), key.squeeze(0), value.squeeze(0)
    if _contrib:
        inputs: list[Tensor | None] = [query, key, value, key_pages, value_pages]
        inputs += [pages.cumulative_sequence_length, pages.past_seqlens, pages.block_table]
        inputs += [None, None, pages.slot_mapping]
        inputs += [*[None] * (_ATTENTION_METADATA - len(inputs)), pages.attention_metadata]
        attributes = {
            "num_heads": num_heads,
            "kv_num_heads": kv_heads,
            "scale": head_dim**-0.5,
            "local_window_size": window,
        }
        shapes = [query.shape, key_pages.shape, key_pages.shape]
        out, *present = _nodes("com.microsoft::PagedAttention", inputs, attributes, query, shapes)
        return out[None], present[0], present[1]

    # Write the new rows
    written = pages.slot_mapping >= 0
    places = pages.slot_mapping[written].long()
    stored = []
    for rows, old in ((key, key_pages), (value, value_pages)):
        flat = old.flatten(0, 1).index_put((places,), rows.unflatten(-1, (kv_heads, -1))[written])
        stored.append(flat.view_as(old))

    # Attend, a stream at a time
    out, starts = torch.zeros_like(query), pages.cumulative_sequence_length.tolist()
    for stream, (first, last) in enumerate(pairwise(starts)):
        rows = int(pages.past_seqlens[stream]) + torch.arange(last - first)
        seen = [each[pages.block_table[stream].long()].flatten(0, 1) for each in stored]
        distance = rows[:, None] - torch.arange(len(seen[0]))
        heads = [each.transpose(0, 1)[None] for each in seen]
        asked = query[first:last].unflatten(-1, (num_heads, head_dim)).transpose(0, 1)[None]
        mask = (distance >= 0) & (distance < window)
        attended = _attention(asked, heads[0], heads[1], mask[None, None])
        out[first:last] = attended[0].transpose(0, 1).flatten(-2)
    return out[None], stored[0], stored[1]


def _write_rows(buffer: Tensor, view: View, values: Tensor) -> Tensor:
    """Return a buffer [batch, heads, capacity, size] with a view's rows written.

    values: [batch, heads, seq, size].
    """
    if _tracing:
        assert view.valid is None, "no operator of the standard leaves rows out"
        return _node("ScatterND", [buffer, view.index, values], {}, buffer, buffer.shape)
    index = view.index.unbind(-1)
    if view.valid is not None:
        values = torch.where(view.valid[:, None, :, None], values, buffer[index])
    return buffer.index_put(index, values)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return scaled dot-product attention under a mask.

    query: [batch, heads, seq, size]; key, value: [batch, kv_heads, capacity, size]; mask: bool
    [batch, 1, seq, capacity].
    """
    if _tracing:
        return _node(
            "Attention",
            [query, key, value, mask],
            {"scale": query.shape[-1] ** -0.5},
            query,
            query.shape,
        )
    return F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)


def columns(x: Tensor, first: Tensor, count: int) -> Tensor:
    """Return `count` columns of `x` [batch, channels, n], in each from another on, int [batch]."""
    index = first[:, None, None].long() + torch.arange(count)
    return x.gather(2, index.expand(-1, x.shape[1], -1))


def last_rows(past: Tensor, count: int) -> Tensor:
    """Return the last `count` rows of a past [batch, heads, rows, head_dim], or all if fewer."""
    if _tracing:
        # Slice's inputs starts, ends and axes
        bounds = [torch.full((1,), value) for value in (-count, (1 << 63) - 1, 2)]
        return _node("Slice", [past, *bounds], {}, past, past.shape)
    return past[:, :, max(0, past.shape[2] - count) :]


def size(x: Tensor, axis: int) -> Tensor:
    """Return the length of an axis as int64 [1], computed when the graph runs."""
    if _tracing:
        return _node(
            "Shape", [x], {"start": axis, "end": axis + 1}, torch.empty(0, dtype=torch.int64), (1,)
        )
    return torch.tensor([x.shape[axis]])


def digit(x: Tensor, base: int, place: int) -> Tensor:
    """Return a digit of whole numbers: x // base^place % base."""
    if _tracing:
        value, base_value = torch.full((), base**place), torch.full((), base)
        quotient = _node("Div", [x, value], {}, x, x.shape) if place else x
        return _node("Mod", [quotient, base_value], {}, x, x.shape)
    return x // base**place % base


def highest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest values along the last axis, and the first index of each, with axis kept.

    The values are gathered by index, because ReduceMax takes 7 ms on CUDA for more than one row;
    but not in the standard's operators, since onnx.reference only gathers elements along axes of up
    to 64.
    """
    index = x.argmax(-1, keepdim=True)
    values = x.amax(-1) if _tracing and not _contrib else x.gather(-1, index).squeeze(-1)
    return values, index


def silu(x: Tensor) -> Tensor:
    """Return x * sigmoid(x)."""
    if _contrib:
        return _node("com.microsoft::QuickGelu", [x], {"alpha": 1.0}, x, x.shape)
    return F.silu(x)


def project(x: Tensor, table: Tensor) -> Tensor:
    """Multiply `x` by the transpose of a float table, without copying the table.

    x: [batch, seq, K]; table: [N, K].
    """
    if _tracing:
        batch, seq, size = x.shape
        rows = x.reshape(-1, size)
        out = _node("Gemm", [rows, table], {"transB": 1}, x, (rows.shape[0], table.shape[0]))
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


def _node(
    op: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], like: Tensor, shape
) -> Tensor:
    return torch.onnx.ops.symbolic(
        op, inputs, attributes, dtype=like.dtype, shape=shape, version=_version(op)
    )


def _nodes(
    op: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], like: Tensor, shapes
) -> Sequence[Tensor]:
    return torch.onnx.ops.symbolic_multi_out(
        op,
        inputs,
        attributes,
        dtypes=[like.dtype] * len(shapes),
        shapes=shapes,
        version=_version(op),
    )


def _version(op: str) -> int | None:
    return 1 if op.startswith("com.microsoft::") else None
