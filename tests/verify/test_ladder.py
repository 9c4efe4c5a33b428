"""Intact artifacts pass; each damage fails on its rung, and the message names the stage or the tensor."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from conftest import copy_artifact
from damage import attribute, edit_graph, edit_tensor, nodes

from voxtral_onnx import verify
from voxtral_onnx.errors import VerificationError
from voxtral_onnx.verify.certificate import read_verdict

LAYER = "language_model.layers.1"


@pytest.fixture
def toy(toy_artifact, tmp_path):
    """A copy of the toy artifact's q4, to damage."""
    return copy_artifact(toy_artifact, tmp_path / "toy", "q4")


def failures(folder, **options) -> list:
    with pytest.raises(VerificationError) as caught:
        verify(folder, **options)
    assert caught.value.exit_code == 8
    assert json.loads((folder / "certificate.json").read_text())["verdict"] == "failed"
    assert "FAILED" in (folder / "certificate.html").read_text()
    assert read_verdict(folder).startswith("FAILED")
    first = caught.value.report.failures[0]
    assert f"rung {first.rung}, {first.check}: {first.summary}" in str(caught.value)
    return caught.value.report.failures


def half_split_to_interleaved(rows: np.ndarray) -> np.ndarray:
    """Rows of a rotary weight in the order of Mistral's file; toy heads are 16 wide."""
    return rows.reshape(-1, 2, 8, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def double_one_scale(scales):
    scales[3, 1] *= 2


def flip_a_row_of_nibbles(weight):
    weight[5] ^= 0x50


def swap_two_rows(weight):
    weight[[0, 9]] = weight[[9, 0]]


def interleave(weight):
    weight[...] = half_split_to_interleaved(np.array(weight))


def shift(table):
    table[1:] = np.array(table[:-1])


def zero(values):
    values[...] = 0


@pytest.mark.parametrize(
    ("role", "name", "change", "says"),
    [
        ("decoder", f"{LAYER}.mlp.up_proj.scales", double_one_scale, "1 of 480 values differ, the first in row 3"),
        ("decoder", f"{LAYER}.mlp.gate_proj.weight", flip_a_row_of_nibbles, "48 of 7,680 values differ"),
        ("decoder", f"{LAYER}.self_attn.q_proj.weight", swap_two_rows, "its rows stand in another order"),
        ("decoder", f"{LAYER}.self_attn.k_proj.weight", swap_two_rows, "its rows stand in another order"),
        ("decoder", f"{LAYER}.self_attn.q_proj.weight", interleave, "its rows stand in another order"),
        ("decoder", f"{LAYER}.ada_rms_norm.table", shift, "values differ, the first in row 1"),
        ("encoder", "audio_tower.layers.0.self_attn.q_proj.bias", zero, "96 of 96 values differ"),
    ],
    ids=["scale", "nibbles", "q rows", "k rows", "rotary order", "delay table", "bias"],
)
def test_damaged_weights_are_named(toy, toy_checkpoint, role, name, change, says):
    edit_tensor(toy, role, name, change)
    (found,) = failures(toy, checkpoint=toy_checkpoint, rungs=[3])
    assert (found.rung, found.check) == (3, "weights against the checkpoint")
    assert found.summary.startswith(name) and says in found.summary


def widen_a_window(graph):
    attribute(nodes(graph, "GroupQueryAttention")[1], "local_window_size").i += 1


def rotate_other_pairs(graph):
    attribute(nodes(graph, "RotaryEmbedding")[2], "interleaved").i = 1


def move_a_state(graph):
    (cut,) = [node for node in graph.node if "present_conv1_state" in node.output]
    for index, value in ((1, -3), (2, -1)):
        cut.input[index] += "_moved"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), cut.input[index]))


def forget_the_zero_points(graph):
    nodes(graph, "MatMulNBits")[3].input[3] = ""


def choose_another_blank(graph):
    (gather,) = [node for node in nodes(graph, "Gather") if node.input[0] == "logits"]
    (constant,) = [node for node in graph.node if gather.input[1] in node.output]
    constant.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array(33)))


@pytest.mark.parametrize(
    ("role", "change", "stage"),
    [
        ("decoder", widen_a_window, LAYER),
        ("encoder", widen_a_window, "audio_tower.layers.1"),
        ("decoder", rotate_other_pairs, LAYER),
        ("encoder", move_a_state, "audio_tower.embedder"),
        ("decoder", forget_the_zero_points, "language_model.layers.0"),
        ("decoder", choose_another_blank, "language_model.norm"),
    ],
    ids=["decoder window", "encoder window", "rotary pairs", "conv state", "zero points", "blank"],
)
def test_damaged_graphs_are_found_without_the_checkpoint(toy, role, change, stage):
    edit_graph(toy, role, change)
    found = failures(toy, rungs=[3])[0]
    assert (found.rung, found.check) == (3, "graphs against modules")
    assert f" in {stage}, more than 1e-05" in found.summary


def test_intact_toy_passes_the_rungs_of_graphs_and_streams(toy, toy_checkpoint):
    certificate = verify(toy, checkpoint=toy_checkpoint, rungs=[1, 3, 4])
    assert {finding.status for finding in certificate.findings} == {"passed"}
    assert {finding.rung for finding in certificate.findings} == {0, 1, 3, 4}
    assert certificate.not_checked == ()
    stages = certificate.details["q4"]["stages"]
    assert [stage["name"] for stage in stages][:2] == ["audio_tower.embedder", "audio_tower.layers.0"]
    assert len(stages) == 6 + 5
