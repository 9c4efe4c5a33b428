"""transformers.js itself, unmodified, on an artifact of its family.

In Node, and in a headless Chromium.
"""

from __future__ import annotations

import json

import pytest
import soundfile
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from reference.transformers_js import SURE, generate, some_clips
from support.checkpoints import TINY
from support.commands import CLIP, SAMPLES, TEXT
from support.needs import chromium, need_chromium, need_node, old_package, run_node, run_script


@pytest.fixture(scope="module")
def expected(transformers_js_artifact, tmp_path_factory):
    """What onnxruntime makes of the same graphs in Python, by the paths of clips."""
    folder, values = tmp_path_factory.mktemp("clips"), {}
    for name, samples in some_clips().items():
        soundfile.write(folder / name, samples, 16000, subtype="PCM_16")
        values[folder / name] = generate(transformers_js_artifact, "q4", samples)
    return values


@pytest.mark.node
def test_tokens_in_node(transformers_js_artifact, expected):
    need_node()
    need_node("@huggingface/transformers")
    done = run_script("bench/hosts_transformers_js.mjs", transformers_js_artifact, "q4", *expected)
    assert done.returncode == 0, done.stderr
    result, equal, total = json.loads(done.stdout), 0, 0
    for (path, wanted), run in zip(expected.items(), result["runs"], strict=True):
        # The last position, whose token nothing follows
        assert len(run["ids"]) == len(wanted.ids) + 1
        pairs = zip(wanted.ids, run["ids"], strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(wanted.ids))
        assert at == len(wanted.ids) or wanted.margins[at] < SURE, f"{path.name}: token {at}"
        equal, total = equal + at, total + len(wanted.ids)
    print(
        f"{result['host']}: {equal} of {total} tokens equal, the others behind one with a lead "
        f"below {SURE}"
    )
    assert equal > 0.99 * total


@pytest.mark.node
def test_example(transformers_js_artifact, tiny_artifact, tmp_path):
    need_node()
    need_node("@huggingface/transformers")
    home = tmp_path / "home"
    done = run_script(
        "examples/transformers_js.mjs", transformers_js_artifact, CLIP, HOME=str(home)
    )
    assert done.stdout.strip() == TEXT, done.stderr
    assert not home.exists()  # where a report to onnxruntime's maker would begin
    refused = run_script("examples/transformers_js.mjs", tiny_artifact, CLIP)
    advice = (
        f"voxtral-onnx export SOURCE -o {tiny_artifact} --precision q4f16 --family "
        "native,transformers_js"
    )
    assert refused.returncode and advice in refused.stderr
    refused = run_script(
        "examples/transformers_js.mjs", transformers_js_artifact, SAMPLES / "transcripts.json"
    )
    assert refused.returncode and "expected mono WAV of 16 bits at 16000 Hz" in refused.stderr
    old_package(tmp_path, "@huggingface/transformers", "export const env = { version: '3.8.1' }")
    refused = run_script(
        "examples/transformers_js.mjs", tiny_artifact, CLIP, PACKAGES=str(tmp_path)
    )
    assert refused.returncode and "transformers.js 3.8.1: needed is 4.3 or newer" in refused.stderr


@pytest.mark.node
@pytest.mark.browser
def test_tokens_in_a_browser(transformers_js_artifact, tmp_path):
    need_node()
    need_node("@huggingface/transformers")
    need_chromium()
    clip = SAMPLES / "digits-espeak.wav"
    made = generate(transformers_js_artifact, "q4", soundfile.read(clip, dtype="float32")[0])
    text = (
        Tekkenizer.from_file(TINY / "tekken.json")
        .decode([i for i in made.ids if i >= 1000])
        .strip()
    )
    path = tmp_path / "expected.json"
    path.write_text(
        json.dumps({clip.name: {"ids": made.ids, "margins": made.margins, "text": text}})
    )
    run_node(
        "transformers_js.test.js",
        CHROMIUM=str(chromium()),
        VOXTRAL_ARTIFACT=str(transformers_js_artifact),
        VOXTRAL_EXPECTED=str(path),
    )
