"""quantize(): the same bytes from an artifact as from its checkpoint, and mixed recipes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import copy_artifact
from reference import toy
from support.parity import assert_parity

from voxtral_onnx import quantize
from voxtral_onnx.assets import TINY
from voxtral_onnx.exporter.checkpoint.artifact import open_artifact
from voxtral_onnx.exporter.checkpoint.external_data import read_initializers
from voxtral_onnx.exporter.checkpoint.names import held_shapes
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.model.delay_gains import delay_gains
from voxtral_onnx.exporter.output import UNFINISHED
from voxtral_onnx.exporter.plan import plan_export
from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.quant.recipe import load_recipe

LINEARS = ("linear1", "linear2")  # of a delay network


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("precision", ["q4", "q4f16"])
def test_a_float32_artifact_gives_the_bytes_that_its_checkpoint_gives(
    precision, tiny_artifact, tmp_path
):
    """After an interruption, too."""
    artifact, out = copy_artifact(tiny_artifact, tmp_path / "source", "fp32"), tmp_path / "out"
    before = contents(artifact)
    with pytest.raises(KeyboardInterrupt):
        quantize(artifact, out, precisions=(precision,), on_progress=_interrupt)
    assert UNFINISHED in contents(out) and FILE_NAME not in contents(out)
    quantize(artifact, out, precisions=(precision,))
    found, expected, manifest = contents(out), contents(tiny_artifact), Manifest.read(out)
    assert contents(artifact) == before
    assert manifest.fingerprint == Manifest.read(tiny_artifact).fingerprint
    assert manifest.precisions[precision] == Manifest.read(tiny_artifact).precisions[precision]
    assert found.keys() == manifest.files.keys() | {FILE_NAME}
    for name in manifest.files:
        assert found[name] == expected[name], name


def test_gains_are_copied(tiny_artifact, tmp_path):
    out = quantize(copy_artifact(tiny_artifact, tmp_path / "source", "fp16"), tmp_path / "out")
    found, expected = (
        read_initializers(folder, Manifest.read(folder).precisions["q4f16"].decoder)
        for folder in (out, tiny_artifact)
    )
    tables = [name for name in expected if name.endswith(".ada_rms_norm.table")]
    assert len(tables) == 4
    for name in tables:
        assert np.array_equal(found[name].stored_rows(), expected[name].stored_rows()), name


def _interrupt(report):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("source", "error"),
    [("fp32", 0), ("fp16", 2**-10), ("q8", 0.01)],  # of a tensor's largest; float16 has 11 bits
)
def test_tensors_of_an_artifact_are_the_checkpoints(tiny_artifact, tmp_path, source, error):
    original = open_checkpoint(TINY)
    opened = open_artifact(copy_artifact(tiny_artifact, tmp_path / "source", source))
    assert (
        opened.config == original.config
        and opened.tokenizer == original.tokenizer
        and opened.card == original.card
    )
    assert opened.tensors.keys() == held_shapes(original.config).keys()
    assert (opened.fingerprint() == original.fingerprint()) == (error == 0)
    for name, other in opened.tensors.items():
        if name.endswith(".table"):
            network = (
                original.tensors[name.replace("table", f"{part}.weight")].rows() for part in LINEARS
            )
            rows = delay_gains(*network)[:, None]
        else:
            rows = original.tensors[name].rows()
        atol = error * np.abs(rows).max()
        assert_parity(other.rows(), rows, atol=atol, what=name)
        assert_parity(other.rows(3, 9), other.rows()[3:9], atol=0, what=f"{name}, some rows")
        if rows.ndim == 2:
            assert_parity(
                other.columns(5, 50), other.rows()[:, 5:50].T, atol=0, what=f"{name}, some columns"
            )
        other.release(0, 2)
        other.release()
        assert_parity(other.rows(), rows, atol=atol, what=f"{name}, read again")


def test_the_most_exact_precision_is_read(tiny_artifact):
    assert open_artifact(tiny_artifact).layout == "artifact, fp32"


def test_four_bits_are_not_rounded_again(tiny_artifact, tmp_path, run):
    artifact = copy_artifact(tiny_artifact, tmp_path / "source", "q4f16")
    run("quantize", artifact).assert_refused(
        5,
        "has only 4-bit weights (q4f16)",
        "quantise the checkpoint",
        Manifest.read(artifact).fingerprint[:16],
    )


def test_eight_bits_become_four(tiny_artifact, tmp_path, run):
    artifact = copy_artifact(tiny_artifact, tmp_path / "source", "q8")
    result = run("quantize", artifact, "-o", tmp_path / "out")
    assert (result.code, result.out) == (0, f"{tmp_path / 'out'}\n")
    assert "artifact, q8" in result.err
    folder = tmp_path / "out"
    Manifest.read(folder).check_files(folder, hashes=True)
    assert Manifest.read(folder).fingerprint != Manifest.read(tiny_artifact).fingerprint


def test_floats_are_not_quantisation(tiny_artifact, tmp_path, run):
    run(
        "quantize", tiny_artifact, "-o", tmp_path / "out", "--precision", "q4f16,fp16"
    ).assert_refused(2, "fp16", "voxtral-onnx export")


def test_what_is_read_is_not_written(tiny_artifact, run):
    run("quantize", tiny_artifact, "-o", tiny_artifact).assert_refused(2, "is the source itself")


def test_a_damaged_artifact_is_refused(tiny_artifact, tmp_path, run):
    artifact = copy_artifact(tiny_artifact, tmp_path / "source", "fp32")
    weights = artifact / "onnx/audio_encoder.onnx_data"
    with weights.open("r+b") as file:
        file.write(b"\xff\xff")
    run("quantize", artifact, "-o", tmp_path / "out").assert_refused(
        4, "audio_encoder.onnx_data: expected sha256"
    )
    weights.unlink()
    run("quantize", artifact, "-o", tmp_path / "out").assert_refused(
        4, "audio_encoder.onnx_data: missing"
    )
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(toy_checkpoint, tmp_path, run):
    command = ("quantize", toy_checkpoint, "-o", tmp_path / "out", "--dry-run")
    result = run(*command, "--recipe", "quality")
    assert result.code == 0, result.err
    assert (
        "onnx/decoder_model_merged_q4f16.onnx_data" in result.out and "; time: about " in result.out
    )
    assert not list(tmp_path.iterdir())


def test_a_repository_is_a_source(toy_checkpoint, hub_server, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub_server.publish("org/toy", toy_checkpoint, "v1")
    run("quantize", "org/toy@v1", "--precision", "fp16").assert_refused(2, "quantises nothing")
    assert not hub_server.requests
    result = run("quantize", "org/toy", "--revision", "v1", "--dry-run")
    assert (result.code, hub_server.taken()) == (0, ["params.json", "tekken.json"])
    assert "org/toy@v1 at " in result.out and " in toy-onnx; " in result.out
    folder = quantize("org/toy@v1")
    assert folder == Path("toy-onnx") and hub_server.taken()[2:] == ["consolidated.safetensors"]
    Manifest.read(folder).check_files(folder, hashes=True)
    hub_server.requests.clear()
    assert run("quantize", "org/toy@v1", "--offline", "--dry-run", "-o", "other").code == 0
    assert hub_server.requests == []


def test_tokenizer_of_a_source(toy_checkpoint, tiny_artifact, tmp_path, run):
    tokenizer = toy_checkpoint / "tekken.json"
    run("quantize", tiny_artifact, "-o", tmp_path / "out", "--tokenizer", tokenizer).assert_refused(
        2, "has its own"
    )
    without = tmp_path / "without"
    shutil.copytree(toy_checkpoint, without, ignore=shutil.ignore_patterns("tekken.json"))
    command = ("quantize", without, "-o", tmp_path / "out", "--dry-run")
    run(*command).assert_refused(3, "tekken.json")
    assert run(*command, "--tokenizer", tokenizer).code == 0


def test_estimates_know_what_methods_cost(tmp_path):
    recipes = ("q8", "default", "small")  # fitted: nothing, the encoder, all
    seconds = [plan_export(TINY, tmp_path, recipe=name, threads=1).seconds for name in recipes]
    assert seconds == sorted(set(seconds))


MIXED = """accuracy_level = 4
[[rules]]
tensors = "language_model.layers.0.mlp.*"
bits = 8
block_size = 128
method = "rtn_symmetric"
[[rules]]
tensors = "*.layers.1.*"
bits = 4
block_size = 64
method = "refit_asymmetric"
[[rules]]
tensors = "*"
bits = 4
block_size = 32
method = "rtn_symmetric"
"""


def test_a_recipe_of_mixed_forms(toy_checkpoint, tmp_path, run):
    """Layers of different forms are different nodes: the graph is run, not only checked."""
    from voxtral_onnx import Transcriber

    recipe, folder = tmp_path / "mixed.toml", tmp_path / "out"
    recipe.write_text(MIXED)
    result = run("quantize", toy_checkpoint, "-o", folder, "--recipe", recipe, "--json")
    assert (result.code, json.loads(result.out)) == (0, {"folder": str(folder)}), result.err
    manifest = Manifest.read(folder)
    assert manifest.precisions["q4f16"].recipe == load_recipe(str(recipe)).spec()
    with Transcriber(folder, context=64) as transcriber:
        assert len(transcriber.transcribe(toy.babble(1)).token_ids) == 13 + 10
