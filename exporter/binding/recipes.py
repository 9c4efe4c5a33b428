"""Recipes that make each initializer from the checkpoint's tensors, in slices of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from ...quant.blocks import quantize_blockwise
from ...quant.kept import keeps
from ...quant.packing import pack, unpack
from ...quant.recipe import Rule
from ..checkpoint.open import Checkpoint
from ..checkpoint.tensors import Tensor
from ..model.delay_gains import delay_gains
from ..model.parameters import Kind, Part, Parts

# Elements converted at a time; smaller slices lose the second thread to the interpreter's lock
SLICE_ELEMENTS = 1 << 19
MAPPED_ELEMENTS = 1 << 23  # elements of a checkpoint in memory at once where columns are read


class Sink(Protocol):
    """A destination of initializers: data files, a module, or a comparison with other values."""

    def write(self, name: str, values: np.ndarray, at: int) -> None:
        """Write values into the initializer `name` from its element `at` on, in its own type.

        Any thread may call it.
        """
        ...


@dataclass(frozen=True, slots=True)
class WeightRecipe:
    """A recipe that makes some initializers from some tensors, in slices of rows."""

    tensors: tuple[Tensor, ...]
    # First row, end row -> values of these rows by initializer
    make: Callable[[int, int], dict[str, np.ndarray]]
    # Two recipes of one part with the same rule make the same values
    rule: Rule | None = None
    num_rows: int = 1
    row_elements: int = 1

    def slices(self) -> Iterator[tuple[int, int]]:
        """Yield ranges [start, stop) of rows, of about `SLICE_ELEMENTS` elements each."""
        step = max(1, SLICE_ELEMENTS // self.row_elements)
        for start in range(0, self.num_rows, step):
            yield start, min(start + step, self.num_rows)

    def run(self, pool: Executor, sinks: Sequence[Sink]) -> None:
        """Make all rows, several slices at a time, and write them to every sink."""
        for _ in pool.map(lambda rows: self.write(sinks, *rows), self.slices()):
            pass

    def write(self, sinks: Sequence[Sink], start: int, stop: int) -> None:
        """Make the rows [start, stop) once and write them to every sink."""
        for name, values in self.make(start, stop).items():
            for sink in sinks:
                sink.write(name, values, start * (values.size // (stop - start)))


def weight_recipes(parts: Parts, checkpoint: Checkpoint) -> Iterator[WeightRecipe]:
    """Yield the weight recipes of every parameter, in one order for all precisions."""
    tensors = checkpoint.tensors
    for part in parts.values():
        prefix, weight = part.prefix, f"{part.name}.weight"
        match part.kind:
            case Kind.QUANTIZED_LINEAR | Kind.QUANTIZED_TABLE:
                yield _quantize(prefix, tensors[weight], _rule(part))
            case Kind.DEQUANTIZED_LINEAR | Kind.DEQUANTIZED_TABLE:
                yield _quantize_transposed(prefix, tensors[weight], _rule(part))
            case Kind.LINEAR:
                yield _transpose(weight, tensors[weight])
            case Kind.NORM | Kind.CONV | Kind.TABLE:
                yield _copy(weight, tensors[weight])
            case Kind.DELAY_GAIN:
                yield _delay_gains(prefix, tensors)
            case Kind.CONSTANTS:
                yield _constants(part)
        if "bias" in part.parameters:
            yield _copy(prefix + "bias", tensors[prefix + "bias"])


def _rule(part: Part) -> Rule:
    assert part.rule is not None, f"{part.name}: quantised by no rule"
    return part.rule


def _copy(name: str, tensor: Tensor) -> WeightRecipe:
    def make(start: int, stop: int) -> dict[str, np.ndarray]:
        values = tensor.rows(start, stop)
        tensor.release(start, stop)
        return {name: values}

    return WeightRecipe((tensor,), make, None, tensor.shape[0], prod(tensor.shape[1:]))


def _transpose(name: str, tensor: Tensor) -> WeightRecipe:
    rows, columns = tensor.shape
    return WeightRecipe(
        (tensor,), lambda start, stop: {name: tensor.columns(start, stop)}, None, columns, rows
    )


def _quantize(prefix: str, tensor: Tensor, rule: Rule) -> WeightRecipe:
    def make(start: int, stop: int) -> dict[str, np.ndarray]:
        if keeps(rule, tensor.encoding.kept):
            blocks = tensor.blocks(start, stop)
        else:
            blocks = quantize_blockwise(tensor.rows(start, stop), rule, tensor.name)
        tensor.release(start, stop)
        pieces = {
            "weight": blocks.packed,
            "scales": blocks.scales,
            "zero_points": blocks.zero_points,
        }
        return {prefix + name: values for name, values in pieces.items() if values is not None}

    return WeightRecipe((tensor,), make, rule, *tensor.shape)


def _quantize_transposed(prefix: str, tensor: Tensor, rule: Rule) -> WeightRecipe:
    """Return a recipe that quantises a matrix and stores it transposed, as [inputs, outputs].

    Codes and scales equal those of `_quantize`. A row of the recipe is one block of inputs for all
    outputs.
    """
    outputs, inputs = tensor.shape
    num_blocks, middle = -(-inputs // rule.block_size), 1 << (rule.bits - 1)
    step = max(1, MAPPED_ELEMENTS // inputs)

    def make(start: int, stop: int) -> dict[str, np.ndarray]:
        first, last = start * rule.block_size, min(stop * rule.block_size, inputs)
        codes = np.empty((last - first, outputs), np.uint8)
        scales = np.empty((stop - start, outputs), np.float32)
        zeros = np.full((stop - start, outputs), middle, np.uint8)
        for begin in range(0, outputs, step):
            end = min(begin + step, outputs)

            # Quantise these blocks of some outputs, or keep the source's
            if keeps(rule, tensor.encoding.kept):
                blocks = tensor.blocks(begin, end, start, stop)
            else:
                blocks = quantize_blockwise(
                    tensor.columns(first, last, begin, end).T, rule, tensor.name
                )

            # Transpose them
            of_rows = unpack(blocks.packed, rule.bits, rule.block_size).reshape(end - begin, -1)
            codes[:, begin:end] = of_rows[:, : last - first].T
            scales[:, begin:end] = blocks.scales.T
            if blocks.zero_points is not None:
                zeros[:, begin:end] = unpack(blocks.zero_points, rule.bits, stop - start).T
            tensor.release(begin, end)

        return {
            prefix + "weight": pack(codes, rule.bits),
            prefix + "scales": scales,
            prefix + "zero_points": pack(zeros, rule.bits),
        }

    # A code is a byte in memory, a quarter of the float that a slice's size is meant for
    return WeightRecipe((tensor,), make, rule, num_blocks, rule.block_size * outputs // 4)


def _delay_gains(prefix: str, tensors: Mapping[str, Tensor]) -> WeightRecipe:
    """Return a recipe that computes the table of delay gains, or copies an artifact's."""
    if (table := tensors.get(prefix + "table")) is not None:
        return _copy(prefix + "table", table)
    linear1, linear2 = (tensors[f"{prefix}{name}.weight"] for name in ("linear1", "linear2"))
    return WeightRecipe(
        (linear1, linear2),
        lambda start, stop: {prefix + "table": delay_gains(linear1.rows(), linear2.rows())},
    )


def _constants(part: Part) -> WeightRecipe:
    make = part.constants
    assert make is not None, f"{part.name}: has no constants"
    return WeightRecipe(
        (),
        lambda start, stop: {part.prefix + name: values for name, values in make().items()},
    )
