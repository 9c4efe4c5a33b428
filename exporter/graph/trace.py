"""Trace a module to an ONNX graph, without a single weight in memory.

Three traps of PyTorch shape this file. The `meta` device breaks `torch.onnx.ops.symbolic`, so
modules are made in FakeTensorMode. `torch.onnx.export` silently falls back to unfused graphs when
it captures the module itself, so `torch.export` runs first and the operators are counted. Two
inputs that are one tensor object are merged, so every example is a tensor of its own.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from ...config import VoxtralConfig
from ...manifest import TensorSpec
from ..model import ops
from ..model.parameters import Parameter, Parts
from .families.spec import GraphPlan, PlanOf
from .passes import clean
from .replicate import TRACED_LAYERS, repeat_last_layer
from .unbound import UnboundGraph, finish

# The highest that every tested host accepts; the first with RotaryEmbedding and RMSNormalization
OPSET = 23
# All above 1, which would be traced as a constant
EXAMPLE_SIZES = {"batch": 2, "seq": 3, "chunk": 5, "capacity": 64}
EXAMPLE_SIZES |= {"batch_and_1": 3, "num_pages": 9, "page_rows": 256, "pages": 4}
EXAMPLE_SIZES |= {"sequence_length": 3, "past_sequence_length": 7, "total_sequence_length": 11}


def trace(plan_of: PlanOf, config: VoxtralConfig) -> UnboundGraph:
    """Trace one graph; its initializers have the names of the checkpoint's tensors.

    Where the recipe treats all layers behind the first alike, two layers are traced and the second
    is repeated to the configuration's depth; else every layer is traced, which takes a second each.

    Raises:
        AssertionError: the graph does not have the fused operators that the plan names.
    """
    plan = plan_of(config)
    are_alike = _are_alike(plan.parts)
    model = _trace_whole(plan_of(_shortened(config)) if are_alike else plan)
    clean(model)
    if are_alike:
        repeat_last_layer(model, plan.num_layers)
    return finish(plan, model)


def _are_alike(parts: Parts) -> bool:
    """Return whether all layers behind the first have parameters of the same shapes and types.

    These differ wherever a recipe stores two layers differently.
    """
    layers: dict[int, list[tuple[str, Mapping[str, Parameter]]]] = {}
    for part in parts.values():
        if found := re.fullmatch(r"\w+\.layers\.(\d+)\.(.+)", part.name):
            layers.setdefault(int(found[1]), []).append((found[2], part.parameters))
    return bool(layers) and all(layer == layers[1] for number, layer in layers.items() if number)


def _shortened(config: VoxtralConfig) -> VoxtralConfig:
    def two_layers(stack):
        return replace(stack, num_hidden_layers=min(stack.num_hidden_layers, TRACED_LAYERS))

    return replace(config, encoder=two_layers(config.encoder), decoder=two_layers(config.decoder))


def _trace_whole(plan: GraphPlan) -> ir.Model:
    with FakeTensorMode(), torch.no_grad(), ops.tracing(standard=plan.standard), _quiet():
        program = torch.export.export(
            plan.module().eval(),
            tuple(_example(spec) for spec in plan.inputs),
            dynamic_shapes=_dynamic_shapes(plan),
            strict=False,
        )
    with _quiet():
        traced = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            input_names=[spec.name for spec in plan.inputs],
            output_names=[spec.name for spec in plan.outputs],
        )
    assert traced is not None
    return traced.model


def _dynamic_shapes(plan: GraphPlan) -> tuple:
    """Return the dynamic axes of each argument of `forward`; the last, `*past`, has all caches."""
    dims = {name: Dim(name, min=1, max=1 << 20) for name in EXAMPLE_SIZES}

    def axes(spec: TensorSpec) -> dict:
        found = {}
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                factor, name = _parse_axis(size)
                found[axis] = dims[name] if factor == 1 else factor * dims[name]
        return found

    plain = [axes(spec) for spec in plan.inputs if not spec.name.startswith("past_key_values.")]
    past = [axes(spec) for spec in plan.inputs if spec.name.startswith("past_key_values.")]
    return (*plain, tuple(past)) if past else tuple(plain)


def _example(spec: TensorSpec) -> torch.Tensor:
    shape = []
    for size in spec.shape:
        factor, name = _parse_axis(size) if isinstance(size, str) else (size, "")
        shape.append(factor * EXAMPLE_SIZES.get(name, 1))
    return torch.empty(shape, dtype=getattr(torch, spec.dtype))


def _parse_axis(axis: str) -> tuple[int, str]:
    factor, _, name = axis.rpartition("*")
    return int(factor or 1), name


class _quiet:  # noqa: N801
    """A context that silences warnings of torch's exporter about its own internals."""

    def __enter__(self):
        self.logger = logging.getLogger("torch.onnx")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error):
        self.warnings.__exit__(*error)
        self.logger.setLevel(self.level)
