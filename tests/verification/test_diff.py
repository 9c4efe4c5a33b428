"""Differences between artifacts, from the manifest down to single codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import copy_artifact
from support.damage import attribute, edit_graph, edit_tensor, nodes

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


def test_graphs_and_manifests_are_compared(pair, toy_artifact, tmp_path):
    def widen(graph):
        attribute(nodes(graph, "GroupQueryAttention")[1], "local_window_size").i = 99

    edit_graph(pair[1], "decoder", widen)
    found = diff(*pair)
    assert found.graphs["q4 decoder"] == (
        "GroupQueryAttention before language_model.layers.1.self_attn.o_proj: local_window_size "
        "26 | 99",
    )
    assert not found.tensors and not found.facts

    other = diff(pair[0], copy_artifact(toy_artifact, tmp_path / "c", "fp32"))
    assert (
        "precisions.q4.recipe.name" in other.facts
        and "precisions.fp32.activation_dtype" in other.facts
    )


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
    def drop_zero_points(graph):
        name = nodes(graph, "MatMulNBits")[0].input[3]
        nodes(graph, "MatMulNBits")[0].input[3] = ""
        graph.initializer.remove(
            next(tensor for tensor in graph.initializer if tensor.name == name)
        )

    edit_graph(pair[1], "decoder", drop_zero_points)
    found = diff(*pair)
    assert [(row.kind, row.name.rpartition(".")[2]) for row in found.tensors] == [
        ("only in a", "zero_points")
    ]
    assert "other inputs" in found.graphs["q4 decoder"][0]


def test_what_is_no_artifact_is_refused(pair, tmp_path, run):
    run("diff", pair[0], tmp_path).assert_refused(4, "voxtral_onnx.json")
