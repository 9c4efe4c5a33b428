"""Differences between artifacts, from the manifest down to single codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import copy_artifact
from support.damage import attribute, edit_graph, edit_tensor, nodes

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.verification.diff import diff

SCALES = "language_model.layers.1.mlp.up_proj.scales"


@pytest.fixture
def pair(toy_artifact, tmp_path):
    return [copy_artifact(toy_artifact, tmp_path / name, "q4") for name in "ab"]


def test_copies_are_equal(pair, run):
    assert diff(*pair).is_equal
    result = run("diff", *pair)
    assert result.code == 0 and result.out.startswith("equal\n")


def test_changes_are_counted(pair, run):
    def change_codes(weight):
        weight[2, 0, :3] ^= np.array([0x01, 0x10, 0x11], np.uint8)  # 1 + 1 + 2 codes

    def change_scales(scales):
        scales[0, 0] *= 1.25
        scales[4, 1] *= 2

    edit_tensor(pair[1], "decoder", SCALES.replace("scales", "weight"), change_codes)
    edit_tensor(pair[1], "decoder", SCALES, change_scales)
    found = {row.name: row for row in diff(*pair).tensors}
    codes, scales = found[SCALES.replace("scales", "weight")], found[SCALES]
    assert (codes.kind, codes.num_different, codes.size) == ("codes", 4, 160 * 96)
    assert (scales.kind, scales.num_different, scales.max_relative) == (
        "values",
        2,
        pytest.approx(0.5),
    )
    result = run("diff", *pair)
    assert result.code == 8
    assert f"q4 decoder: {SCALES}: 2 of 480 values differ, by up to 50.00%" in result.out
    values = json.loads(run("diff", *pair, "--json").out)
    assert values["equal"] is False and len(values["tensors"]) == 2


def test_graphs_are_compared(pair):
    def widen(graph):
        attribute(nodes(graph, "GroupQueryAttention")[1], "local_window_size").i = 99

    edit_graph(pair[1], "decoder", widen)
    found = diff(*pair)
    assert found.graphs["q4 decoder"] == (
        "GroupQueryAttention before language_model.layers.1.self_attn.o_proj: local_window_size "
        "26 | 99",
    )
    assert not found.tensors and not found.facts


def test_a_node_is_named_by_its_module(pair):
    def in_float(graph):
        for node in nodes(graph, "MatMulNBits")[:2]:
            attribute(node, "accuracy_level").i = 1

    edit_graph(pair[1], "decoder", in_float)
    lines = diff(*pair).graphs["q4 decoder"]
    layer = "language_model.layers.0.self_attn"
    assert [line.partition(": ")[0] for line in lines] == [
        f"{layer}.q_proj (MatMulNBits)",
        f"{layer}.k_proj (MatMulNBits)",
    ]


def test_tensors_that_one_graph_lacks_are_named(pair):
    def drop_bias(graph):
        node = next(n for n in nodes(graph, "MatMulNBits") if len(n.input) > 5 and n.input[5])
        name, node.input[5] = node.input[5], ""
        graph.initializer.remove(
            next(tensor for tensor in graph.initializer if tensor.name == name)
        )

    edit_graph(pair[1], "encoder", drop_bias)
    found = diff(*pair)
    assert [(row.kind, row.name.rpartition(".")[2]) for row in found.tensors] == [
        ("only in a", "bias")
    ]
    assert "other inputs" in found.graphs["q4 encoder"][0]


def test_zero_points_that_one_graph_lacks_change_the_weights(pair):
    def drop_zero_points(graph):
        name = nodes(graph, "MatMulNBits")[0].input[3]
        nodes(graph, "MatMulNBits")[0].input[3] = ""
        graph.initializer.remove(
            next(tensor for tensor in graph.initializer if tensor.name == name)
        )

    edit_graph(pair[1], "decoder", drop_zero_points)
    (row,) = diff(*pair).tensors
    assert row.name == "language_model.layers.0.self_attn.q_proj.weight"
    first, second = row.forms.split(" | ")
    assert first == f"{second}, zero points" and row.rms_relative and row.rms_relative > 0.1


@pytest.mark.parametrize(
    ("names", "rms", "operators"),
    [
        ("q4,q4f16", {}, True),
        ("q4f16,q4", {}, True),
        ("fp16,fp32", {}, True),
        ("q8,fp32", {"8 bits": (0.003, 0.007)}, True),
        ("q4,fp32", {"4 bits": (0.05, 0.1), "8 bits": (0.003, 0.007)}, True),
        ("fp32,q4f16", {"4 bits": (0.05, 0.1), "8 bits": (0.003, 0.007)}, True),
        ("q8,q4", {"4 bits": (0.05, 0.1)}, False),
    ],
)
def test_weights_of_other_precisions_are_compared_as_floats(
    names, rms, operators, tiny_artifact, run
):
    found = diff(tiny_artifact, tiny_artifact, precisions=names.split(","))
    assert found.pairs == (tuple(names.split(",")),)
    assert {tensor.kind for tensor in found.tensors} == {"weights"} and found.num_equal > 40
    for tensor in found.tensors:
        least, most = next((span for bits, span in rms.items() if bits in tensor.forms), (0, 0.001))
        assert tensor.rms_relative and least < tensor.rms_relative < most, tensor
    for lines in found.graphs.values():
        others = [line for line in lines if "inputs" not in line and ": bits " not in line]
        assert len(others) == operators and all("by the number formats)" in x for x in others)
    result = run("diff", tiny_artifact, tiny_artifact, "--precision", names)
    assert result.code == 8 and result.out.startswith(f"compared: {names.replace(',', ' with ')}\n")
    assert not re.search(r"[{}<>]|\w\(|None|Spec", result.out)  # values of Python's
    assert len(result.out.splitlines()) < 23


def test_a_wrong_weight_is_found_across_precisions(tiny_artifact, tmp_path):
    """One scale, twice what it was: seen against every precision, and nothing else is."""
    folder, name = tmp_path / "a", "language_model.layers.1.mlp.up_proj"

    def change(scales):
        scales[:] *= 2

    edit_tensor(copy_artifact(tiny_artifact, folder, "fp16"), "decoder", f"{name}.weight", change)
    for other in ("fp32", "q8", "q4"):
        found = diff(folder, tiny_artifact, precisions=("fp16", other)).tensors
        worst = max(found, key=lambda tensor: tensor.rms_relative or 0)
        assert worst.name == f"{name}.weight" and worst.rms_relative == pytest.approx(0.5, abs=0.05)


def test_an_operator_more_is_no_number_format(tiny_artifact, tmp_path):
    def add_node(graph):
        node = graph.node.add()
        node.CopyFrom(nodes(graph, "QuickGelu")[0])
        node.output[0] = "never_read"

    folder = copy_artifact(tiny_artifact, tmp_path / "a", "q4f16")
    edit_graph(folder, "decoder", add_node)
    found = diff(folder, tiny_artifact, precisions=("q4f16", "q4"))
    (line,) = [x for x in found.graphs["q4f16 | q4 decoder"] if x.startswith("operators")]
    assert "number formats" not in line


def test_artifacts_without_a_common_precision(toy_artifact, tmp_path, run):
    a, b = (copy_artifact(toy_artifact, tmp_path / name, name) for name in ("q4", "fp32"))
    found = diff(a, b)
    assert found.pairs == (("q4", "fp32"),) and found.facts["precisions"] == (("q4",), ("fp32",))
    assert "precisions.q4 | fp32.recipe.name" in found.facts
    out = run("diff", a, b).out
    assert "precisions: q4 | fp32\n" in out and "{" not in out
    assert ".recipe.rules.*: 4 bits in blocks of " in out
    assert not diff(a, toy_artifact).tensors  # q4, which both have
    run("diff", a, b, "--precision", "q8").assert_refused(2, "the artifact has q4, not 'q8'")
    run("diff", a, b, "--precision", "q4,fp32,q8").assert_refused(2, "expected one, or one of each")


def test_graphs_for_other_programs_are_compared(transformers_js_artifact, tiny_artifact, tmp_path):
    without = copy_artifact(tiny_artifact, tmp_path / "a", "q4")
    found = diff(without, transformers_js_artifact)
    assert found.facts["files.onnx/embed_tokens_q4.onnx"][0] is None
    assert not found.is_equal and not found.tensors


def test_only_what_is_compared_must_be_there(tiny_artifact, pair, tmp_path, run):
    folder = copy_artifact(tiny_artifact, tmp_path / "part", "q4", "fp32")
    for name in Manifest.read(folder).precisions["fp32"].files:
        (folder / name).unlink()
    assert run("diff", folder, tiny_artifact).out.endswith(" 0 differ\n")
    weights = next(pair[0].glob("onnx/decoder*data"))
    weights.write_bytes(weights.read_bytes()[:-1])
    run("diff", *pair).assert_refused(4, weights.name, "expected")


def test_diff_needs_no_torch(pair):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnxscript'])); "
        "from voxtral_onnx.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "diff", *map(str, pair)], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"equal\n")


def test_what_is_no_artifact_is_refused(pair, tmp_path, run):
    run("diff", pair[0], tmp_path).assert_refused(4, "voxtral_onnx.json")
