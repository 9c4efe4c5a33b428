"""The graphs and the files that an export plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..quant.recipe import Recipe
from .binding.layout import ExternalDataLayout
from .earlier import WantedGraph
from .graph.families.spec import GraphPlan, PlanOf
from .graph.ready import ReadyGraphs


@dataclass(frozen=True, slots=True)
class PlannedGraph:
    """A graph of one precision, and the locations of its weights."""

    precision: str
    family: str
    plan_of: PlanOf
    plan: GraphPlan
    recipe: Recipe
    layout: ExternalDataLayout
    ready: ReadyGraphs | None  # shipped graphs that it can be made of; else it must be traced

    @property
    def written(self) -> Mapping[str, int]:
        """Return the sizes of the data files that are written for this graph, by name."""
        return {} if self.plan.shares_weights_of else self.layout.sizes

    @property
    def is_shipped(self) -> bool:
        """Return whether the graph comes with this package; others are traced."""
        return self.ready is not None

    @property
    def wanted(self) -> WantedGraph:
        """Return what tells the graph from one that an earlier export made."""
        path, recipe = self.plan.graph_file, self.recipe.spec()
        return WantedGraph(self.precision, self.family, path, recipe, self.layout.sizes)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of the artifact that an export makes or reuses."""

    name: str  # below the artifact folder
    size: int  # bytes
    is_exact: bool  # whether the size is known; that of a graph is estimated until it is traced
    is_reused: bool  # whether the file is there already
