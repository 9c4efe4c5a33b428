"""The portable family: the native graphs in operators of the ONNX standard only, opset 23.

Inputs, outputs and the shifting of cache rows are native's, so a host runs either by naming other
files. Weights of 4 and 8 bits are packed for DequantizeLinear and MatMul, in files of their own;
float weights are shared with native.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ....config import VoxtralConfig
from ....manifest import Tokens
from ...model.parameters import PartFactory
from . import native
from .spec import Family, GraphPlan, PlanOf, add_counts

IN_STANDARD = {  # numbers of standard nodes in the place of one fused operator
    "GroupQueryAttention": {"Attention": 1, "ScatterND": 2},
    "QuickGelu": {"Sigmoid": 1},
    "SimplifiedLayerNormalization": {"RMSNormalization": 1},
    "SkipSimplifiedLayerNormalization": {"RMSNormalization": 1},
    "MatMulNBits": {"DequantizeLinear": 1, "MatMul": 1},
    "GatherBlockQuantized": {},
}


def plans(*, tokens: Tokens, build: PartFactory, suffix: str) -> tuple[PlanOf, ...]:
    """Return the plans of encoder and decoder; the decoder takes any batch with any seq."""
    build = replace(build, standard=True)
    of_native = native.pair(tokens=tokens, build=build, suffix=suffix)
    return tuple(partial(_portable, of_native=plan_of, suffix=suffix) for plan_of in of_native)


FAMILY = Family(plans)


def _portable(config: VoxtralConfig, of_native: PlanOf, suffix: str) -> GraphPlan:
    plan = of_native(config)
    counts = [
        {name: each * count for name, each in IN_STANDARD.get(operator, {operator: 1}).items()}
        for operator, count in plan.fused_operators.items()
    ]
    has_codes = "MatMulNBits" in plan.fused_operators
    return replace(
        plan,
        graph_file=f"onnx/portable_{plan.role}{suffix}.onnx",
        data_file=f"onnx/portable_{plan.role}{suffix}.onnx_data" if has_codes else plan.data_file,
        shares_weights_of=None if has_codes else plan.graph_file,
        fused_operators=add_counts(*counts),
        standard=True,
    )
