"""Graphs traced once a session.

Tracing takes seconds, and what comes out depends on the plan and the configuration.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import onnx_ir as ir
from filelock import FileLock

from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.graph.families.spec import PlanOf
from voxtral_onnx.exporter.graph.trace import TracedGraph, fake_module, trace


class Traces:
    """In the place of `trace`.

    Keeps in a folder what that gave, for every process that is told of the folder.
    """

    def __init__(self, folder: Path):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.names: list[str] = []  # graphs that exports asked for

    def __call__(self, plan_of: PlanOf, config: VoxtralConfig) -> TracedGraph:
        plan = plan_of(config)
        self.names.append(plan.graph_file)
        key = re.sub(" at 0x[0-9a-f]+>", ">", repr((plan_of, config)))  # functions by their names
        assert not re.search("<(lambda|locals)>", key), key
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"
        facts = path.with_suffix(".json")
        with FileLock(path.with_suffix(".lock")):
            if not facts.exists():
                made = trace(plan_of, config)
                for name in made.model.graph.initializers.keys() & made.module.state_dict().keys():
                    _without_values(made.model.graph.initializers[name])
                ir.save(made.model, path)
                facts.write_text(json.dumps(made.operators))
        return TracedGraph(plan, fake_module(plan), ir.load(path), json.loads(facts.read_text()))


def _without_values(value: ir.Value) -> None:
    """A weight's location in the graph, as a file can hold it."""
    assert value.const_value is not None
    dtype, shape = value.const_value.dtype, ir.Shape(value.const_value.shape.numpy())
    value.const_value = ir.ExternalTensor("", 0, 0, dtype, shape=shape, name=str(value.name))
