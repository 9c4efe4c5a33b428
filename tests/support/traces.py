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
from voxtral_onnx.exporter.graph.trace import trace
from voxtral_onnx.exporter.graph.unbound import UnboundGraph


class Traces:
    """In the place of `trace`.

    Keeps in a folder what that gave, for every process that is told of the folder.
    """

    def __init__(self, folder: Path):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.names: list[str] = []  # graphs that exports asked for

    def __call__(self, plan_of: PlanOf, config: VoxtralConfig) -> UnboundGraph:
        plan = plan_of(config)
        self.names.append(plan.graph_file)
        key = re.sub(" at 0x[0-9a-f]+>", ">", repr((plan_of, config)))  # functions by their names
        assert not re.search("<(lambda|locals)>", key), key
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"
        facts = path.with_suffix(".json")
        with FileLock(path.with_suffix(".lock")):
            if not facts.exists():
                made = trace(plan_of, config)
                ir.save(made.model, path)
                facts.write_text(json.dumps(made.operators))
        return UnboundGraph(plan, ir.load(path), json.loads(facts.read_text()))
