"""A missing, doubled or unknown runtime is said before anything runs."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest
from support.commands import CLIP

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


@pytest.mark.parametrize("device", ["gpu", "", "CPU"])
def test_unknown_device(device, tiny_artifact, run):
    result = run("transcribe", "-m", tiny_artifact, "--device", device, CLIP)
    result.assert_refused(2, f"device: expected auto, cpu, cuda, cuda:N or webgpu, got {device!r}")
