"""Which hosts run an artifact: derived from data, and no claim in it that no test backs."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.verification.hosts import NOT_IN_ARTIFACT, NOT_RUN, WORKS, judge, read_hosts

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


def statuses(name: str, manifest: Manifest) -> dict[tuple[str, str | None], str]:
    return {
        (verdict.family, verdict.precision): verdict.status
        for verdict in judge(HOSTS[name], manifest)
    }


def test_every_test_stands_where_the_table_says():
    """And is not switched off."""
    for host in HOSTS.values():
        assert host.version and host.tests
        for test in host.tests:
            path, name = test.test.split("::")
            names = {
                node.name
                for node in ast.parse((ROOT / path).read_text()).body
                if isinstance(node, ast.FunctionDef)
            }
            assert name in names, f"{host.name}: no such test: {test.test}"


def test_works_is_said_of_what_was_run_alone(manifest):
    cuda = statuses("onnxruntime, CUDA", manifest)
    assert {name for (_, name), status in cuda.items() if status == WORKS} == {"q4f16", "fp16"}
    assert {name for (_, name), status in cuda.items() if status == NOT_RUN} == {"q4", "q8", "fp32"}
    openvino = statuses("OpenVINO, CPU", manifest)
    native = {("native", name): WORKS for name in ("q4f16", "q4", "q8", "fp32")} | {
        ("native", "fp16"): NOT_RUN
    }
    assert openvino == native | {("portable", "q4"): WORKS, ("portable", "fp16"): WORKS}


def test_a_verdict_names_its_tests(manifest):
    found = {
        verdict.precision: verdict.tests for verdict in judge(HOSTS["OpenVINO, CPU"], manifest)
    }
    assert found["q8"] == ("tests/test_hosts.py::test_openvino_runs_other_precisions",)
    assert all(
        bool(verdict.tests) == (verdict.status == WORKS)
        for host in HOSTS.values()
        for verdict in judge(host, manifest)
    )


def test_a_family_that_is_not_there(manifest):
    assert statuses("transformers.js", manifest) == {("transformers_js", None): NOT_IN_ARTIFACT}


def test_inspect_shows_it(run, tiny_artifact):
    result = run("inspect", tiny_artifact, "--hosts")
    assert result.code == 0
    text = " ".join(result.out.split())
    assert "onnxruntime, CPU 1.32.0 native q4f16, q4, q8, fp16, fp32: works" in text
    assert (
        "transformers_js: not in this artifact; add it: export --family native,transformers_js"
        in text
    )
    rows = json.loads(run("inspect", tiny_artifact, "--hosts", "--json").out)
    assert {row["host"] for row in rows} == HOSTS.keys()
    assert all(row["status"] in (WORKS, NOT_RUN, NOT_IN_ARTIFACT) for row in rows)
