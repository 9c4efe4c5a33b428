"""Nodes of a graph that is traced, which stand for what PyTorch computes otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_tracing = False
_contrib = False  # whether nodes may be contrib operators


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


def is_tracing() -> bool:
    """Return whether nodes are emitted."""
    return _tracing


def is_contrib() -> bool:
    """Return whether nodes are emitted, which may be contrib operators."""
    return _contrib


def emit(
    op: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], like: Tensor, shape
) -> Tensor:
    """Emit a node, and return its output of a type like `like`'s and of a shape."""
    return torch.onnx.ops.symbolic(
        op, inputs, attributes, dtype=like.dtype, shape=shape, version=_version(op)
    )


def emit_several(
    op: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], like: Tensor, shapes
) -> Sequence[Tensor]:
    """Emit a node, and return its outputs, all of a type like `like`'s."""
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
