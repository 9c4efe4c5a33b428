"""Attention over cached keys and values: plain PyTorch when run, nodes when traced, as in ops.py.

The plain forms follow the operators' contracts, caches and row positions included.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from . import nodes

# Places of the last inputs of GroupQueryAttention and PagedAttention
QUERY_SEQLENS = ATTENTION_METADATA = 16


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
    if nodes.is_contrib():
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
    if nodes.is_contrib():
        attributes = {
            "num_heads": num_heads,
            "kv_num_heads": kv_heads,
            "scale": head_dim**-0.5,
            "local_window_size": window,
        }
        inputs: list[Tensor | None] = [query, key, value, past_key, past_value]
        inputs += [seqlens_k, total_sequence_length]
        if query_seqlens is not None:
            inputs += [*[None] * (QUERY_SEQLENS - len(inputs)), query_seqlens]
        present = (batch, kv_heads, capacity, head_dim)
        shapes = [query.shape, present, present]
        out, present_key, present_value = nodes.emit_several(
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
    """The places of the rows of several streams in caches [num_pages, page_rows, heads, head_dim].

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
    if nodes.is_contrib():
        inputs: list[Tensor | None] = [query, key, value, key_pages, value_pages]
        inputs += [pages.cumulative_sequence_length, pages.past_seqlens, pages.block_table]
        inputs += [None, None, pages.slot_mapping]
        inputs += [*[None] * (ATTENTION_METADATA - len(inputs)), pages.attention_metadata]
        attributes = {
            "num_heads": num_heads,
            "kv_num_heads": kv_heads,
            "scale": head_dim**-0.5,
            "local_window_size": window,
        }
        shapes = [query.shape, key_pages.shape, key_pages.shape]
        out, *present = nodes.emit_several(
            "com.microsoft::PagedAttention", inputs, attributes, query, shapes
        )
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
    if nodes.is_tracing():
        assert view.valid is None, "no operator of the standard leaves rows out"
        return nodes.emit("ScatterND", [buffer, view.index, values], {}, buffer, buffer.shape)
    index = view.index.unbind(-1)
    if view.valid is not None:
        values = torch.where(view.valid[:, None, :, None], values, buffer[index])
    return buffer.index_put(index, values)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return scaled dot-product attention under a mask.

    query: [batch, heads, seq, size]; key, value: [batch, kv_heads, capacity, size]; mask: bool
    [batch, 1, seq, capacity].
    """
    if nodes.is_tracing():
        return nodes.emit(
            "Attention",
            [query, key, value, mask],
            {"scale": query.shape[-1] ** -0.5},
            query,
            query.shape,
        )
    return F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)


def last_rows(past: Tensor, count: int) -> Tensor:
    """Return the last `count` rows of a past [batch, heads, rows, head_dim], or all if fewer."""
    if nodes.is_tracing():
        # Slice's inputs starts, ends and axes
        bounds = [torch.full((1,), value) for value in (-count, (1 << 63) - 1, 2)]
        return nodes.emit("Slice", [past, *bounds], {}, past, past.shape)
    return past[:, :, max(0, past.shape[2] - count) :]
