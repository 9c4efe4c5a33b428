"""Trace a module to an ONNX graph, without a single weight in memory.

Three traps of PyTorch shape this file. The `meta` device breaks `torch.onnx.ops.symbolic`, so
modules are made in FakeTensorMode. `torch.onnx.export` silently falls back to unfused graphs when
it captures the module itself, so `torch.export` runs first and the operators are counted. Two
inputs that are one tensor object are merged, so every example is a tensor of its own.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from ...config import VoxtralConfig
from ...manifest import TensorSpec
from ..model import ops
from .families.spec import GraphPlan, PlanOf
from .passes import clean
from .passes.names import name_values
from .replicate import TRACED_LAYERS, repeat_last_layer

# The highest that every tested host accepts; the first with RotaryEmbedding and RMSNormalization
OPSET = 23
# All above 1, which would be traced as a constant
EXAMPLE_SIZES = {"batch": 2, "seq": 3, "chunk": 5, "capacity": 64}
EXAMPLE_SIZES |= {"sequence_length": 3, "past_sequence_length": 7, "total_sequence_length": 11}


@dataclass(frozen=True, slots=True)
class TracedGraph:
    """A graph whose initializers have no values yet, and the module that has them as parameters."""

    plan: GraphPlan
    module: nn.Module
    model: ir.Model
    operators: dict[str, int]


def trace(plan_of: PlanOf, config: VoxtralConfig) -> TracedGraph:
    """Trace one graph; its initializers have the names of the checkpoint's tensors.

    Where the recipe treats all layers behind the first alike, two layers are traced and the second
    is repeated to the configuration's depth; else every layer is traced, which takes a second each.

    Raises:
        AssertionError: the graph does not have the fused operators that the plan names.
    """
    plan = plan_of(config)
    module = fake_module(plan)
    are_alike = _are_alike(module)
    model = _trace_whole(plan_of(_shortened(config)) if are_alike else plan)
    clean(model)
    if are_alike:
        repeat_last_layer(model, plan.num_layers)
    return finish(plan, module, model)


def fake_module(plan: GraphPlan) -> nn.Module:
    """Return the plan's module with parameters that have types and shapes but no values."""
    with FakeTensorMode():
        return plan.module().eval()


def finish(plan: GraphPlan, module: nn.Module, model: ir.Model) -> TracedGraph:
    """Check a graph against its plan, and give its values and nodes their final names.

    Raises:
        AssertionError: the graph has other inputs, outputs or fused operators than the plan.
    """
    # Check and declare inputs and outputs
    for value, spec in zip(
        (*model.graph.inputs, *model.graph.outputs), (*plan.inputs, *plan.outputs), strict=True
    ):
        assert value.name == spec.name, f"{plan.role}: expected {spec.name}, found {value.name}"
        value.shape = ir.Shape(spec.shape)
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
    for value, spec in zip(model.graph.inputs, plan.inputs, strict=True):
        if spec.name in plan.defaults:
            value.const_value = ir.tensor(np.array([plan.defaults[spec.name]]), name=spec.name)
            model.graph.register_initializer(value)

    # Name values and nodes, and check the operators
    name_values(model, module.state_dict())
    operators = dict(sorted(Counter(node.op_type for node in model.graph).items()))
    for operator, count in plan.fused_operators.items():
        found = operators.get(operator, 0)
        assert found == count, f"{plan.role}: expected {count} {operator} nodes, found {found}"
    assert not plan.standard or "com.microsoft" not in model.opset_imports, (
        f"{plan.role}: has contrib operators"
    )
    model.producer_name, model.producer_version = "voxtral-onnx", ""
    return TracedGraph(plan, module, model, operators)


def _are_alike(module: nn.Module) -> bool:
    """Return whether all layers behind the first have parameters of the same shapes and types.

    These differ wherever a recipe stores two layers differently.
    """
    layers = [
        layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part
    ]
    shapes = [
        [(name, value.shape, value.dtype) for name, value in layer.state_dict().items()]
        for layer in layers
    ]
    return bool(layers) and all(other == shapes[1] for other in shapes[1:])


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
