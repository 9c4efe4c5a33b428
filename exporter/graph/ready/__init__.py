"""Graphs that are shipped, so that exporting a model of their configuration needs no PyTorch.

    MODEL/facts.json                 what the graphs depend on, and the packages that traced them
    MODEL/FAMILY_ROLE_DTYPE.onnx     a graph with float weights, which have no values

A graph depends on the configuration and on the blank's id, not on weights. Every precision and
recipe is made of it by `retarget`. scripts/make_graphs.py writes the files from traces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx_ir as ir
from msgspec import Struct

from ....config import VoxtralConfig
from ....decode import decode
from ....manifest import Tokens
from ..families.spec import GraphPlan
from ..retarget import retarget
from ..unbound import UnboundGraph

FOLDER = Path(__file__).parent
FACTS = "facts.json"


class Facts(Struct, frozen=True):
    """The facts that the graphs of a model depend on."""

    config: VoxtralConfig
    streaming_pad: int  # id of the blank
    packages: dict[str, str]  # versions of the packages that traced them

    def to_json(self) -> bytes:
        """Return the content of `facts.json`."""
        return json.dumps(
            {
                "config": self.config.to_dict(),
                "streaming_pad": self.streaming_pad,
                "packages": self.packages,
            },
            indent=1,
        ).encode()


@dataclass(frozen=True, slots=True)
class ReadyGraphs:
    """The shipped graphs of one model."""

    folder: Path

    def has(self, family: str, plan: GraphPlan) -> bool:
        """Return whether a planned graph can be made without a trace."""
        return self._source(family, plan) is not None

    def make(self, family: str, plan: GraphPlan) -> UnboundGraph:
        """Make a planned graph, for which `has` is true."""
        source = self._source(family, plan)
        assert source is not None, f"{plan.graph_file}: is not shipped"
        made = retarget(ir.load(source), plan)
        assert made is not None, f"{source}: has a quantised table"
        return made

    def _source(self, family: str, plan: GraphPlan) -> Path | None:
        """Return the shipped graph of the plan's type of activations, else the one in float32."""
        names = (file_name(family, plan.role, dtype) for dtype in (plan.dtype, "float32"))
        return next((path for name in names if (path := self.folder / name).is_file()), None)


def file_name(family: str, role: str, dtype: str) -> str:
    """Return the name of a shipped graph's file."""
    return f"{family}_{role}_{dtype}.onnx"


def find_ready(config: VoxtralConfig, tokens: Tokens) -> ReadyGraphs | None:
    """Return the shipped graphs of a configuration and a blank, None if there are none."""
    for folder, facts in shipped().items():
        if (facts.config, facts.streaming_pad) == (config, tokens.streaming_pad):
            return ReadyGraphs(folder)
    return None


@cache
def shipped() -> Mapping[Path, Facts]:
    """Return the models with shipped graphs: folder and facts."""
    return {path.parent: read_facts(path) for path in sorted(FOLDER.glob(f"*/{FACTS}"))}


def read_facts(path: Path) -> Facts:
    """Read the facts of a model's shipped graphs."""
    return decode(Facts, path.read_bytes(), lambda reason: ValueError(f"{path}: {reason}"))
