"""The matrix of hosts: derived from data, and no claim in it that no test backs."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.verify.hosts import EXPECTED, NOT_IN_ARTIFACT, NOT_SUPPORTED, WORKS, Host, judge, read_hosts

ROOT = Path(__file__).parent.parent.parent
HOSTS = {host.name: host for host in read_hosts()}


@pytest.fixture(scope="module")
def manifest(tiny_artifact, portable_artifact):
    """Native graphs in all precisions, portable ones in two."""
    native, portable = Manifest.read(tiny_artifact), Manifest.read(portable_artifact)
    kinds = dict(native.precisions)
    for name, kind in portable.precisions.items():
        kinds[name] = replace(kinds[name], families={"portable": (kind.encoder, kind.decoder)})
    return replace(native, precisions=kinds)


def verdicts(host: Host, manifest: Manifest) -> dict:
    return {(verdict.family, verdict.precision): verdict for verdict in judge(host, manifest)}


def test_what_works_was_tested(manifest):
    """Each claim names a version and a test that stands in the file and is not switched off."""
    for host in HOSTS.values():
        found = verdicts(host, manifest)
        claims = {key for key, verdict in found.items() if verdict.status == WORKS}
        assert claims <= {(test.family, name) for test in host.tests for name in test.precisions}
        assert not host.tests or host.version
        for test in host.tests:
            path, name = test.test.split("::")
            names = {
                node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
            }
            assert name in names, f"{host.name}: no such test: {test.test}"
        if "not run" in host.note:
            assert not claims and not host.tests


def test_operators_are_spelled_as_graphs_have_them(manifest):
    """A name that no operator has would claim that everything fits."""
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    known |= {operator for graph in manifest.graphs() for operator in graph.operators}
    for host in HOSTS.values():
        lacking = host.lacks.union(*(host.lacks_in or {}).values())
        assert lacking <= known, f"{host.name}: {sorted(lacking - known)}"
        assert host.source.startswith("https://")
        assert host.tests or host.read or not lacking, f"{host.name}: neither a run nor the day of a list"


@pytest.mark.parametrize("name", ["DirectML", "onnxruntime-web, WebGPU of the default bundle (JSEP)"])
def test_kernels_of_older_versions_are_not_taken(manifest, name):
    """Both lists end at opset 21."""
    kinds = manifest.precisions.values()
    if "portable" not in HOSTS[name].takes:
        kinds = [replace(kind, families={}) for kind in kinds]
    used = {operator for kind in kinds for graph in kind.graphs for operator in graph.operators}
    later = {name for name in used if onnx.defs.has(name) and onnx.defs.get_schema(name, 23).since_version > 21}
    assert "Cast" in later and later <= HOSTS[name].lacks


def test_a_host_that_lacks_an_operator_names_it(manifest):
    cuda = verdicts(HOSTS["onnxruntime, CUDA"], manifest)
    assert cuda["native", "q4"].status == NOT_SUPPORTED and cuda["native", "q4"].operators == ("GroupQueryAttention",)
    assert cuda["native", "q4f16"].status == WORKS and cuda["native", "fp16"].status == WORKS
    tensorrt = verdicts(HOSTS["TensorRT-RTX"], manifest)
    assert tensorrt["portable", "q4"].operators == ("DequantizeLinear",)
    assert tensorrt["portable", "fp16"].status == EXPECTED, "listed, but not run"
    lacking = Host("x", "https://", ("native",), lacks=frozenset({"QuickGelu", "Softmax"}))
    assert verdicts(lacking, manifest)["native", "q4"].operators == ("QuickGelu",)


def test_a_family_that_is_not_there(manifest):
    assert verdicts(HOSTS["transformers.js"], manifest)["transformers_js", None].status == NOT_IN_ARTIFACT
    openvino = verdicts(HOSTS["OpenVINO, CPU"], manifest)
    works = {(family, name) for (family, name), verdict in openvino.items() if verdict.status == WORKS}
    assert works == {("native", name) for name in ("q4f16", "q4", "q8", "fp32")} | {
        ("portable", "q4"),
        ("portable", "fp16"),
    }
    assert openvino["native", "fp16"].status == EXPECTED
    assert [verdict.status for verdict in judge(HOSTS["sherpa-onnx, icefall"], manifest)] == [NOT_SUPPORTED]


def test_inspect_shows_it(run, tiny_artifact):
    result = run("inspect", tiny_artifact, "--hosts")
    assert result.code == 0
    text = " ".join(result.out.split())
    assert "onnxruntime, CPU 1.32.0 native q4f16, q4, q8, fp16, fp32: works" in text
    assert "transformers_js: not in this artifact; add it: export --family native,transformers_js" in text
    rows = json.loads(run("inspect", tiny_artifact, "--hosts", "--json").out)
    assert {row["host"] for row in rows} == HOSTS.keys()
    assert all(row["status"] in (WORKS, EXPECTED, NOT_SUPPORTED, NOT_IN_ARTIFACT) for row in rows)
