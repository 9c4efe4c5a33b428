"""Compare an artifact's weights with the checkpoint's, quantised again by the artifact's recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..exporter.binding.recipes import weight_recipes
from ..exporter.checkpoint.open import Checkpoint
from ..exporter.model.parameters import Part, Parts, decoder_parts, encoder_parts
from ..quant.blocks import Blocks, dequantize_blockwise
from ..quant.recipe import Rule
from .subgraphs import ArtifactGraphs, StagedGraph

# Half units in the last place by which floats may differ: the order in which the delay gains are
# summed depends on the machine
ROUNDING = 4
ROWS = 256  # rows of a weight compared with the checkpoint's floats at a time


@dataclass(frozen=True, slots=True)
class WeightError:
    """The difference between an initializer and the one that the recipe makes of the checkpoint."""

    name: str
    num_different: int  # values
    size: int  # values in all
    first_row: int  # the first row with a different value
    is_reordered: bool  # whether it has the right rows in another order
    # Largest distance of a dequantised weight from the checkpoint's, in steps of its block's scale;
    # None for initializers that are not quantised
    steps: float | None

    def is_rounding(self, most_steps: float) -> bool:
        """Return whether another rounding of the same weights can explain the difference."""
        return self.steps is not None and self.steps <= most_steps

    def __str__(self) -> str:
        how = (
            f"{self.num_different:,} of {self.size:,} values differ, the first in row "
            f"{self.first_row:,}"
        )
        return f"{self.name}: {'its rows stand in another order' if self.is_reordered else how}"


def compare_weights(graphs: ArtifactGraphs, checkpoint: Checkpoint) -> Iterator[WeightError]:
    """Yield a difference for each initializer that an export would write with other values.

    The checkpoint's tensors are quantised again by the artifact's recipe and compared piece by
    piece.
    """
    build, config = graphs.build, graphs.config
    for graph, parts in (
        (graphs.encoder, encoder_parts(build, config)),
        (graphs.decoder, decoder_parts(build, config, graphs.tokens)),
    ):
        sink = _Comparison(graph)
        with ThreadPoolExecutor() as pool:
            for recipe in weight_recipes(parts, checkpoint):
                recipe.run(pool, [sink])
                for tensor in recipe.tensors:
                    tensor.release()
                graph.release()
        yield from sink.errors(parts, checkpoint)


class _Comparison:
    """A receiver of converted weights that compares them with a graph's data files.

    It stands in the place of the writer that an export uses.
    """

    def __init__(self, graph: StagedGraph):
        self.graph = graph
        self.different: Counter[str] = Counter()
        self.first_row: dict[str, int] = {}
        # By tensor, for each hash of a row: its count among expected rows minus that among rows
        # found, all 0 if rows are only reordered
        self.rows: dict[str, Counter[int]] = {}

    def write(self, name: str, values: np.ndarray, at: int) -> None:
        """Compare expected values with an initializer's, from its element `at` on."""
        stored = self.graph.stored(name)
        row_size = max(1, stored.size // len(stored))
        found = stored.reshape(-1)[at : at + values.size]
        wanted = values.astype(stored.dtype, copy=False).reshape(-1)
        if stored.dtype == np.uint8:
            wrong = found != wanted
        else:
            tolerance = ROUNDING / 2 * np.finfo(stored.dtype).eps * np.abs(wanted)
            wrong = ~(np.abs(found - wanted) <= tolerance)
        if not wrong.any():
            return
        self.different[name] += int(wrong.sum())
        first = (at + int(wrong.argmax())) // row_size
        self.first_row[name] = min(first, self.first_row.get(name, first))
        rows = self.rows.setdefault(name, Counter())
        rows.update(hash(row.tobytes()) for row in wanted.reshape(-1, row_size))
        rows.subtract(hash(row.tobytes()) for row in found.reshape(-1, row_size))

    def errors(self, parts: Parts, checkpoint: Checkpoint) -> Iterator[WeightError]:
        """Yield the differences found, in the order of the parts."""
        owners = {part.prefix + name: part for part in parts.values() for name in part.parameters}
        for name in (name for name in owners if name in self.different):
            part, steps = owners[name], None
            if part.rule and not name.endswith(".bias"):
                steps = _rounding_steps(self.graph, part, part.rule, checkpoint)
            is_reordered = not any(self.rows[name].values())
            size = self.graph.stored(name).size
            yield WeightError(
                name, self.different[name], size, self.first_row[name], is_reordered, steps
            )


def _rounding_steps(graph: StagedGraph, part: Part, rule: Rule, checkpoint: Checkpoint) -> float:
    """Return the largest distance of a dequantised weight from the checkpoint's value.

    It is measured in steps of the weight's scale: correct rounding makes at most half a step.
    """
    name, worst = part.name, 0.0
    tensor = checkpoint.tensors[f"{name}.weight"]
    num_rows, num_columns = tensor.shape
    for start in range(0, num_rows, ROWS):
        rows = slice(start, start + ROWS)
        scales = graph.weights(f"{name}.scales", rows).astype(np.float32)
        zero_points = graph.weights(f"{name}.zero_points", rows) if rule.has_zero_points else None
        made = dequantize_blockwise(
            Blocks(graph.weights(f"{name}.weight", rows), scales, zero_points), rule, num_columns
        )
        step = np.repeat(np.maximum(np.abs(scales), 1e-30), rule.block_size, 1)[:, :num_columns]
        worst = max(
            worst, float(np.max(np.abs(made - tensor.rows(start, start + len(made))) / step))
        )
        tensor.release(start, start + len(made))
    return worst
