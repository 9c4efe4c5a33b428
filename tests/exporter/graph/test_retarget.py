"""A graph made from another precision's is the traced one, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest
from conftest import copy_artifact

from voxtral_onnx import quantize
from voxtral_onnx.exporter import export as flow
from voxtral_onnx.exporter.checkpoint.artifact import open_artifact
from voxtral_onnx.exporter.graph.families import NATIVE
from voxtral_onnx.exporter.graph.retarget import retarget
from voxtral_onnx.exporter.plan import plan_export
from voxtral_onnx.manifest import Manifest

PRECISIONS = ("q4f16", "q4", "q8", "fp16", "fp32")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Plans of all precisions' graphs, by precision and role."""
    plan = plan_export("tiny", tmp_path_factory.mktemp("plan") / "none", precisions=PRECISIONS)
    return {
        (graph.precision, graph.plan.role): graph.plan
        for graph in plan.graphs
        if graph.family == NATIVE
    }


def as_text(model: ir.Model) -> str:
    """Everything but where weights stand, which binding decides."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.ExternalTensor(
                "", 0, 0, tensor.dtype, shape=tensor.shape, name=str(value.name)
            )
    return str(ir.to_proto(model))


@pytest.mark.parametrize("role", ["encoder", "decoder", "encoder_batch"])
@pytest.mark.parametrize("source", PRECISIONS)
def test_every_precision_becomes_every_other(tiny_artifact, planned, source, role):
    manifest = Manifest.read(tiny_artifact)
    paths = {
        name: tiny_artifact / getattr(kind, role).path for name, kind in manifest.precisions.items()
    }
    for target in PRECISIONS:
        made = retarget(ir.load(paths[source]), planned[target, role])
        if role == "decoder" and target.startswith("fp") and not source.startswith("fp"):
            assert made is None, "a float table is read by nodes of other shapes"
            continue
        assert made is not None
        assert as_text(made.model) == as_text(ir.load(paths[target])), f"{source} to {target}"
        assert made.operators == getattr(manifest.precisions[target], role).operators


def test_an_artifact_is_quantised_without_tracing(tiny_artifact, tmp_path, monkeypatch):
    def refuse(plan_of, config):
        raise AssertionError("traced")

    monkeypatch.setattr(flow, "trace", refuse)
    source = copy_artifact(tiny_artifact, tmp_path / "source", "fp16")
    quantize(source, tmp_path / "out", precisions=("q4", "q8"))
    found = Manifest.read(tmp_path / "out")
    for precision in ("q4", "q8"):
        for role in ("encoder", "decoder", "encoder_batch"):
            graph = getattr(found.precisions[precision], role)
            expected = (tiny_artifact / graph.path).read_bytes()
            assert (tmp_path / "out" / graph.path).read_bytes() == expected, (
                "graphs do not depend on the weights"
            )


def test_an_artifact_of_another_version_is_traced_anew(tiny_artifact, tmp_path):
    source = copy_artifact(tiny_artifact, tmp_path / "source", "fp16")
    roles = {"encoder", "decoder", "encoder_batch", "encoder_paged"}
    assert open_artifact(source).graphs.keys() == roles
    replace(Manifest.read(source), generator="voxtral-onnx 0.0.1").write(source)
    assert open_artifact(source).graphs == {}
