"""Other hosts of an artifact than our runtimes: they write Python's tokens."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from support.agreement import SHORT_CLIPS, sound
from support.commands import CLIP, TEXT, clean_environment
from support.needs import need_openvino

pytestmark = pytest.mark.hosts
EXAMPLE = Path(__file__).parent.parent / "examples" / "openvino_host.py"


@pytest.fixture
def openvino_host(monkeypatch) -> ModuleType:
    """The example as a module, every graph compiled once."""
    need_openvino()
    spec = importlib.util.spec_from_file_location("openvino_host", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "compiled", cache(module.compiled))
    return module


@pytest.fixture
def judge(openvino_host, tiny_artifact) -> Callable[[Path, str, Sequence[str]], None]:
    """Compares what the host writes of clips with Python's native graphs in the same precision."""

    def judge(artifact: Path, precision: str, clips: Sequence[str]) -> None:
        for clip in clips:
            expected = sound(tiny_artifact, precision, clip)
            print(
                expected.judge(
                    list(openvino_host.transcribe(artifact, precision, expected.samples))
                )
            )

    return judge


def test_openvino_runs_the_native_graphs(judge, tiny_artifact):
    judge(tiny_artifact, "q4", SHORT_CLIPS)


def test_openvino_runs_two_minutes(judge, tiny_artifact):
    """Both windows roll many times, the caches shift 23 and 44 times.

    In floats, whose decisions no rounding turns.
    """
    judge(tiny_artifact, "fp32", ["2 min"])


@pytest.mark.parametrize("precision", ["q4f16", "q8"])
def test_openvino_runs_other_precisions(judge, tiny_artifact, precision):
    judge(tiny_artifact, precision, SHORT_CLIPS[:1])


@pytest.mark.parametrize("precision", ["q4", "fp16"])
def test_openvino_runs_the_portable_graphs(judge, portable_artifact, precision):
    judge(
        portable_artifact, precision, ["long-mixed.wav"] if precision == "q4" else SHORT_CLIPS[:1]
    )


def test_the_reference_runs_the_portable_graphs(
    judge, openvino_host, portable_artifact, monkeypatch
):
    """onnx.reference knows the standard's operators alone."""

    def evaluated(path: Path):
        evaluator = ReferenceEvaluator(str(path))
        return lambda feeds: dict(
            zip(evaluator.output_names, evaluator.run(None, feeds), strict=True)
        )

    monkeypatch.setattr(openvino_host, "compiled", cache(evaluated))
    judge(portable_artifact, "q4", ["time-flite.wav"])


def test_the_openvino_example(openvino_host, tiny_artifact, tmp_path):
    command = [sys.executable, EXAMPLE, tiny_artifact, CLIP]
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(tmp_path), check=True
    )
    assert done.stdout.strip() == TEXT


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../mel.onnx", "onnx/..", "onnx/../../x", "a:b", ""]
)
def test_openvino_and_names_that_lead_elsewhere(openvino_host, name, tmp_path):
    with pytest.raises(SystemExit, match="no file below it is named"):
        openvino_host.below(tmp_path, name)
    assert openvino_host.below(tmp_path, "onnx/mel.onnx") == tmp_path / "onnx" / "mel.onnx"


def test_openvino_and_links(openvino_host, artifact, tmp_path):
    """The hub's cache holds links to weights, which OpenVINO refuses.

    The example says what helps.
    """
    data = next(artifact.glob("onnx/audio_encoder*"))
    data.symlink_to(data.rename(tmp_path / "blob"))
    with pytest.raises(RuntimeError, match="outside the base directory"):
        openvino_host.compiled(next(artifact.glob("onnx/encoder*.onnx")))
    with pytest.raises(SystemExit, match=r"a link, as in the hub's cache.*--local-dir"):
        next(openvino_host.transcribe(artifact, "q4f16", np.zeros(1600, np.float32)))


def test_openvino_refuses_what_it_cannot_run(openvino_host, artifact, monkeypatch):
    silence = np.zeros(1600, np.float32)
    with pytest.raises(
        SystemExit,
        match=r"has q4f16, not q4; use one that it has, as --precision q4f16, or add it: "
        r"voxtral-onnx export SOURCE -o .* --precision q4",
    ):
        next(openvino_host.transcribe(artifact, "q4", silence))
    monkeypatch.setattr(openvino_host.openvino, "__version__", "2026.3.0-19000")
    with pytest.raises(SystemExit, match=r"openvino 2026\.3\.0-19000: needed is 2026\.4 or newer"):
        next(openvino_host.transcribe(artifact, "q4f16", silence))
