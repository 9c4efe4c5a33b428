"""Parameters of the graphs: names, shapes, types and kinds, without the arithmetic on them.

A graph's parts are listed in the order of its module's `state_dict`. The layout of data files,
weight recipes and retargeted graphs are made from them, and so are the modules that are traced.
Names are the checkpoint's (exporter/checkpoint/names.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from math import prod

import numpy as np

from ...config import TransformerConfig, VoxtralConfig
from ...errors import QuantizationError
from ...manifest import MAX_DELAY_TOKENS, Tokens
from ...quant.recipe import Recipe, Rule

MASKED = -1e30  # far below any logit, finite because WGSL has no infinity
DIGITS, BASE = 3, 256  # a position has 3 digits of base 256, enough for 93 hours of encoder frames


class Kind(Enum):
    """A kind of part: the module that a trace makes of it, and how its weights are made."""

    NORM = auto()
    CONV = auto()
    DELAY_GAIN = auto()
    LINEAR = auto()
    QUANTIZED_LINEAR = auto()
    DEQUANTIZED_LINEAR = auto()
    TABLE = auto()
    QUANTIZED_TABLE = auto()
    DEQUANTIZED_TABLE = auto()
    CONSTANTS = auto()


@dataclass(frozen=True, slots=True)
class Parameter:
    """The shape of a parameter, and its type in NumPy's words."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes of its values."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Part:
    """The parameters of one module, without those of the modules in it."""

    name: str  # of the module in the model; empty for the whole graph's
    kind: Kind
    parameters: Mapping[str, Parameter]
    in_features: int = 0  # of a linear layer, or the width of a table
    rule: Rule | None = None  # of the quantised kinds
    accuracy_level: int = 0  # of MatMulNBits
    # Values of parameters that are not made from tensors of the checkpoint
    constants: Callable[[], dict[str, np.ndarray]] | None = field(default=None, compare=False)

    @property
    def prefix(self) -> str:
        """Return the part of its parameters' names in the graph that comes before their own."""
        return self.name and f"{self.name}."


Parts = dict[str, Part]  # by name


def named_parameters(parts: Parts) -> dict[str, Parameter]:
    """Return the parameters of some parts by their names in the graph."""
    return {
        part.prefix + name: parameter
        for part in parts.values()
        for name, parameter in part.parameters.items()
    }


def parts_within(parts: Parts, name: str) -> Parts:
    """Return the parts of the module of that name and of those in it."""
    return {path: part for path, part in parts.items() if f"{path}.".startswith(f"{name}.")}


@dataclass(frozen=True, slots=True)
class PartFactory:
    """A factory of the parts of one precision."""

    dtype: str  # type of activations, scales and caches
    recipe: Recipe
    standard: bool = False  # whether graphs have operators of the ONNX standard only

    def norm(self, name: str, hidden_size: int) -> Part:
        """Return an RMS norm."""
        return Part(name, Kind.NORM, {"weight": self._floats(hidden_size)})

    def conv(self, name: str, in_channels: int, out_channels: int) -> Part:
        """Return a convolution with kernel 3."""
        weight, bias = self._floats(out_channels, in_channels, 3), self._floats(out_channels)
        return Part(name, Kind.CONV, {"weight": weight, "bias": bias})

    def delay_gain(self, name: str, hidden_size: int) -> Part:
        """Return a layer's table of delay gains."""
        table = self._floats(MAX_DELAY_TOKENS + 1, 1, hidden_size)
        return Part(name, Kind.DELAY_GAIN, {"table": table})

    def linear(self, name: str, in_features: int, out_features: int, bias: bool = False) -> Part:
        """Return the linear layer of that name, quantised where the recipe has a rule for it.

        Raises:
            QuantizationError: its outputs do not fill whole bytes, as the standard's operators
                need it.
        """
        rule = self.recipe.rule_for(name)
        if rule is None:
            kind, parameters = Kind.LINEAR, {"weight": self._floats(in_features, out_features)}
        elif self.standard:
            kind = Kind.DEQUANTIZED_LINEAR
            parameters = self._dequantized(rule, in_features, out_features)
        else:
            kind = Kind.QUANTIZED_LINEAR
            parameters = self._quantized(rule, in_features, out_features)
            packed_zeros = -(-parameters["scales"].shape[1] * rule.bits // 8)
            if rule.has_zero_points:
                parameters["zero_points"] = Parameter((out_features, packed_zeros), "uint8")
        if bias:
            parameters["bias"] = self._floats(out_features)
        return Part(name, kind, parameters, in_features, rule, self.recipe.accuracy_level)

    def table(self, name: str, vocab_size: int, hidden_size: int) -> Part:
        """Return the table that is both embedding and head, quantised as `linear`.

        Raises:
            QuantizationError: the recipe's rule cannot be used for a table.
        """
        rule = self.recipe.rule_for(name)
        if rule is None:
            weight = self._floats(vocab_size, hidden_size)
            return Part(name, Kind.TABLE, {"weight": weight}, hidden_size)

        # Check the rule
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

        # Store the codes twice, or the scales: the gather takes the same data as another type
        if self.standard:
            kind = Kind.DEQUANTIZED_TABLE
            parameters = self._dequantized(rule, hidden_size, vocab_size)
            parameters["gather_weight"] = parameters["weight"]
        else:
            kind = Kind.QUANTIZED_TABLE
            parameters = self._quantized(rule, hidden_size, vocab_size)
            parameters["gather_scales"] = self._floats(*parameters["scales"].shape, 1)
        return Part(name, kind, parameters, hidden_size, rule, self.recipe.accuracy_level)

    def _floats(self, *shape: int) -> Parameter:
        return Parameter(shape, self.dtype)

    def _quantized(self, rule: Rule, in_features: int, out_features: int) -> dict[str, Parameter]:
        """Return codes and scales as MatMulNBits takes them."""
        num_blocks = -(-in_features // rule.block_size)
        packed = (out_features, num_blocks, rule.block_size * rule.bits // 8)
        return {
            "weight": Parameter(packed, "uint8"),
            "scales": self._floats(out_features, num_blocks),
        }

    def _dequantized(self, rule: Rule, in_features: int, out_features: int) -> dict[str, Parameter]:
        """Return codes, scales and zero points as DequantizeLinear takes them.

        The codes are [in_features, out_features], in blocks along the first axis. Zero points are
        always stored, because the standard's default is 0.
        """
        if out_features * rule.bits % 8:
            raise QuantizationError(
                f"rule {rule.tensors!r}: {out_features} outputs do not fill whole bytes; use 8 bits"
            )
        num_blocks, row_bytes = -(-in_features // rule.block_size), out_features * rule.bits // 8
        return {
            "weight": Parameter((in_features, row_bytes), "uint8"),
            "scales": self._floats(num_blocks, out_features),
            "zero_points": Parameter((num_blocks, row_bytes), "uint8"),
        }


def encoder_parts(build: PartFactory, config: VoxtralConfig) -> Parts:
    """Return the parts of conv stem, encoder layers and adapter."""
    stack, stem, adapter = config.encoder, "audio_tower.embedder", "multi_modal_projector"
    joined, width = stack.hidden_size * stack.downsample_factor, config.decoder.hidden_size
    return by_name(
        *_stack_parts(build, "audio_tower", stack, bias=True, delay=False),
        build.conv(f"{stem}.conv1", config.audio.n_mels, stack.hidden_size),
        build.conv(f"{stem}.conv2", stack.hidden_size, stack.hidden_size),
        build.linear(f"{adapter}.linear_1", joined, width),
        build.linear(f"{adapter}.linear_2", width, width),
    )


def language_model_parts(build: PartFactory, config: VoxtralConfig) -> Parts:
    """Return the parts of the decoder layers and the tied table."""
    stack = config.decoder
    return by_name(
        *_stack_parts(build, "language_model", stack, bias=False, delay=True),
        table_part(build, config),
    )


def table_part(build: PartFactory, config: VoxtralConfig) -> Part:
    """Return the tied table."""
    stack = config.decoder
    return build.table("language_model.embed_tokens", stack.vocab_size, stack.hidden_size)


def decoder_parts(build: PartFactory, config: VoxtralConfig, tokens: Tokens) -> Parts:
    """Return the parts of the decoder's layers, its table and its sampling."""
    size, blank = config.decoder.vocab_size, tokens.streaming_pad

    def constants() -> dict[str, np.ndarray]:
        mask = np.zeros(size, np.float32)
        mask[blank] = MASKED
        return {"blank_mask": mask, "token_ids": np.arange(size, dtype=np.float32)}

    # A mask, MASKED at the blank and 0 elsewhere, and the ids of all tokens, which turn ArgMax's
    # index into a float, because WebGPU has no kernels for its int64
    vector = Parameter((size,), "float32")
    parameters = {"blank_mask": vector, "token_ids": vector}
    sampling = Part("", Kind.CONSTANTS, parameters, constants=constants)
    return by_name(sampling, *language_model_parts(build, config).values())


def rotation_part(stack: TransformerConfig) -> Part:
    """Return cos and sin [DIGITS * BASE, head_dim / 2] of every digit in every place."""
    half = stack.head_dim // 2

    def constants() -> dict[str, np.ndarray]:
        positions = np.arange(BASE) * BASE ** np.arange(DIGITS)[:, None]
        frequencies = stack.rope_theta ** (-2.0 * np.arange(half) / stack.head_dim)
        angles = positions.reshape(-1, 1) * frequencies
        return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}

    angles = Parameter((DIGITS * BASE, half), "float32")
    parameters = {"cos": angles, "sin": angles}
    return Part("rotation", Kind.CONSTANTS, parameters, constants=constants)


def by_name(*parts: Part) -> Parts:
    """Return some parts by their names, in the same order."""
    return {part.name: part for part in parts}


def _stack_parts(
    build: PartFactory, name: str, stack: TransformerConfig, *, bias: bool, delay: bool
) -> Iterator[Part]:
    """Yield the parts of a transformer's layers and of its final norm."""
    for number in range(stack.num_hidden_layers):
        yield from _layer_parts(build, f"{name}.layers.{number}", stack, bias=bias, delay=delay)
    yield build.norm(f"{name}.norm", stack.hidden_size)


def _layer_parts(
    build: PartFactory, name: str, stack: TransformerConfig, *, bias: bool, delay: bool
) -> Iterator[Part]:
    width, inner, attention = stack.hidden_size, stack.intermediate_size, f"{name}.self_attn"
    yield build.norm(f"{name}.input_layernorm", width)
    yield build.linear(f"{attention}.q_proj", width, stack.q_size, bias)
    yield build.linear(f"{attention}.k_proj", width, stack.kv_size)
    yield build.linear(f"{attention}.v_proj", width, stack.kv_size, bias)
    yield build.linear(f"{attention}.o_proj", stack.q_size, width, bias)
    yield build.norm(f"{name}.post_attention_layernorm", width)
    if delay:
        yield build.delay_gain(f"{name}.ada_rms_norm", width)
    yield build.linear(f"{name}.mlp.gate_proj", width, inner)
    yield build.linear(f"{name}.mlp.up_proj", width, inner)
    yield build.linear(f"{name}.mlp.down_proj", inner, width, bias)
