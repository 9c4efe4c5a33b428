"""A missing, doubled or unknown runtime is said before anything runs."""

from __future__ import annotations

import sys
from importlib import metadata

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.commands import CLIP

from voxtral_onnx.manifest import GraphSpec, TensorSpec
from voxtral_onnx.runtime.device.session import Session

INSTALL = "pip install 'voxtral-onnx[cpu]'   # or 'voxtral-onnx[gpu]' for CUDA"


@pytest.fixture
def wheels(monkeypatch):
    """Pretend that exactly these distributions of onnxruntime are installed."""

    def wheels(*names):
        def version(name):
            if name in names:
                return "1.30.0"
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr("voxtral_onnx.runtime.device.base.metadata.version", version)
        if not names:
            monkeypatch.setitem(sys.modules, "onnxruntime", None)

    return wheels


def test_no_wheel(wheels, tiny_artifact, run):
    wheels()
    result = run("transcribe", "-m", tiny_artifact, CLIP)
    result.assert_refused(7, "onnxruntime is not installed", f"run:\n  {INSTALL}\n")


def test_both_wheels(wheels, tiny_artifact, run):
    wheels("onnxruntime", "onnxruntime-gpu")
    result = run("transcribe", "-m", tiny_artifact, CLIP)
    result.assert_refused(
        7,
        "overwrite each other's files",
        f"run:\n  pip uninstall -y onnxruntime onnxruntime-gpu\n  {INSTALL}\n",
    )


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_wheel(name, wheels, tiny_artifact, run):
    wheels(name)
    assert run("transcribe", "-m", tiny_artifact, CLIP).code == 0


def test_inspect_without_a_wheel_says_what_it_did_not_check(wheels, tiny_artifact, run):
    wheels()
    result = run("inspect", tiny_artifact)
    assert result.code == 0
    assert "checked: sizes\n" in result.out
    assert (
        "inputs and outputs of the graphs not checked: onnxruntime is not installed" in result.err
    )


@pytest.mark.parametrize("device", ["gpu", "cuda:", "CPU"])
def test_unknown_device(device, tiny_artifact, run):
    result = run("transcribe", "-m", tiny_artifact, "--device", device, CLIP)
    result.assert_refused(2, f"device: expected auto, cpu, cuda, cuda:N or webgpu, got {device!r}")


def test_onnxruntime_does_not_print_the_names_of_nodes(tmp_path, capfd):
    """Errors are raised; its log would send the names to the terminal as they are."""
    shapes = {"x": (TensorProto.FLOAT, ["n"]), "s": (TensorProto.INT64, ["m"])}
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="\x1b[2J")],
        "graph",
        [helper.make_tensor_value_info(name, *shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
    )
    opset = helper.make_opsetid("", 19)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "g.onnx")
    inputs = TensorSpec("x", "float32", ("n",)), TensorSpec("s", "int64", ("m",))
    outputs = (TensorSpec("y", "float32", ("a", "b")),)
    spec = GraphSpec("g.onnx", inputs, outputs, (), 0, {"Reshape": 1})
    with pytest.raises(Exception, match="Reshape"):
        Session(tmp_path, spec, "cpu").run({"x": np.zeros(3, np.float32), "s": np.array([2, 2])})
    assert capfd.readouterr() == ("", "")
