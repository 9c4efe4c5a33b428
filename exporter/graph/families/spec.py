"""Types of a family: the plans of its graphs for each precision, and the files beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ....config import TransformerConfig, VoxtralConfig
from ....manifest import Streaming, TensorSpec, Tokens
from ....tekken import Tekken
from ...model.parameters import PartFactory, Parts

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """The plan of one graph: its parts, its inputs and outputs, its files, the module to trace."""

    role: str
    dtype: str  # type of activations and caches
    parts: Parts
    module: Callable[[], nn.Module]  # needs PyTorch
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph_file: str  # below the artifact folder
    data_file: str  # stem of the external data files
    # Prefixes of the names of the checkpoint's tensors that are stored in those data files
    tensors: tuple[str, ...]
    fused_operators: Mapping[str, int]  # numbers of nodes that the traced graph must have
    # File of the graph, bound earlier, whose data files this one uses without writing to them
    shares_weights_of: str | None = None
    inline_bytes: int = 0  # size of the values in the graph's own file
    # Values of inputs [1] that a host need not feed
    defaults: Mapping[str, int] = field(default_factory=dict)
    standard: bool = False  # whether it has operators of the ONNX standard only

    @property
    def required_inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs without a default, which every host feeds."""
        return tuple(spec for spec in self.inputs if spec.name not in self.defaults)

    @property
    def num_layers(self) -> int:
        """Return the number of layers that keep keys and values."""
        return sum(spec.name.startswith("past_key_values.") for spec in self.inputs) // 2


PlanOf = Callable[[VoxtralConfig], GraphPlan]  # plans a graph for any number of layers


class PlanPrecision(Protocol):
    """A function that plans a family's graphs in one precision."""

    def __call__(self, *, tokens: Tokens, build: PartFactory, suffix: str) -> tuple[PlanOf, ...]:
        """Return for each graph a partial that plans it, with the keyword `build` among others."""
        ...


class WriteFiles(Protocol):
    """A function that makes the files in the artifact's root that a family's hosts look for."""

    def __call__(
        self,
        *,
        config: VoxtralConfig,
        tokens: Tokens,
        streaming: Streaming,
        tekken: Tekken,
        graphs: Mapping[str, Mapping[str, int]],
    ) -> dict[str, bytes]:
        """Return the content of the files by name.

        graphs: the number of data files of each graph, by precision and graph file.
        """
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """The graphs that one kind of host runs."""

    plans: PlanPrecision
    root_names: tuple[str, ...] = ()  # names of the files that `root_files` makes
    root_files: WriteFiles | None = None


def cache_specs(
    stack: TransformerConfig, dtype: str, batch: int | str, prefix: str, axis: str
) -> tuple[TensorSpec, ...]:
    """Return the specs of the caches: key, then value, of each layer in turn."""
    shape = (batch, stack.num_key_value_heads, axis, stack.head_dim)
    return tuple(
        TensorSpec(f"{prefix}.{i}.{part}", dtype, shape)
        for i in range(stack.num_hidden_layers)
        for part in ("key", "value")
    )


def fused_operators(stack: TransformerConfig, build: PartFactory, name: str) -> dict[str, int]:
    """Count the fused nodes of a stack by operator.

    Each layer has 1 attention, 2 rotations, 7 matrix products and 2 norms.
    """
    layers = stack.num_hidden_layers
    linears = [f"{name}.layers.{i}.self_attn.{part}_proj" for i in range(layers) for part in "qkvo"]
    linears += [
        f"{name}.layers.{i}.mlp.{part}_proj"
        for i in range(layers)
        for part in ("gate", "up", "down")
    ]
    if name == "audio_tower":
        linears += ["multi_modal_projector.linear_1", "multi_modal_projector.linear_2"]
    quantized = sum(build.recipe.rule_for(linear) is not None for linear in linears)
    counts = {
        "GroupQueryAttention": layers,
        "RotaryEmbedding": 2 * layers,
        "QuickGelu": layers,
        "SimplifiedLayerNormalization": 1,
        "SkipSimplifiedLayerNormalization": 2 * layers,
        "MatMulNBits": quantized,
        "MatMul": len(linears) - quantized,
    }
    return {operator: count for operator, count in counts.items() if count}


def add_counts(*parts: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of several counts by name."""
    return {name: sum(part.get(name, 0) for part in parts) for part in parts for name in part}
