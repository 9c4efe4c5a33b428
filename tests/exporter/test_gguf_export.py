"""Artifacts from GGUFs: what must be bit-equal is, and what is not is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import EXACT_RECIPE
from gguf import GGUFReader
from reference import toy
from support import converters, ggufs
from support.checkpoints import TINY, small_params
from support.commands import CLIP, TEXT

from voxtral_onnx import export
from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.binding.source_report import FILE_NAME, compare
from voxtral_onnx.exporter.checkpoint import names, schemes
from voxtral_onnx.exporter.checkpoint.external_data import read_initializers
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.checkpoint.tensors import Tensor
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.quant.blocks import Blocks, dequantize_blockwise, quantize_blockwise
from voxtral_onnx.quant.recipe import Recipe

KINDS = {  # one tensor of every type: our part of the name to GGUF's type
    "audio_tower.layers.0.mlp.gate_proj": "Q2_K",
    "audio_tower.layers.0.mlp.up_proj": "Q3_K",
    "q_proj": "Q4_0",
    "k_proj": "Q8_0",
    "v_proj": "Q5_1",
    "o_proj": "Q5_0",
    "gate_proj": "Q4_K",
    "up_proj": "Q4_1",
    "down_proj": "Q5_K",
    "linear_1": "F16",
    "linear_2": "BF16",
    "embed_tokens": "Q6_K",
}


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory):
    """The trained checkpoint in Q4_0."""
    path = tmp_path_factory.mktemp("tiny") / "tiny-q4_0.gguf"
    ggufs.write_model(path, ggufs.config_of(TINY), ggufs.mistral_tensors(TINY), "Q4_0")
    return path


@pytest.fixture(scope="module")
def from_q4_0(q4_0, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "artifact"
    return export(q4_0, folder, tokenizer=TINY / "tekken.json", precisions=("q4f16",))


def report_of(folder: Path, precision: str) -> dict:
    return json.loads((folder / FILE_NAME).read_text())["precisions"][precision]


def content_of(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    return {
        tensor.name: (tensor.tensor_type.name, tensor.data) for tensor in GGUFReader(path).tensors
    }


def weights_of(folder: Path, precision: str) -> tuple[dict[str, Tensor], Recipe, VoxtralConfig]:
    manifest = Manifest.read(folder)
    kind = manifest.precisions[precision]
    found = read_initializers(folder, kind.encoder) | read_initializers(folder, kind.decoder)
    return found, Recipe.of(kind.recipe), manifest.config


def test_q4_0_gives_text(from_q4_0, run):
    result = run("transcribe", "-m", from_q4_0, "--precision", "q4f16", CLIP)
    assert result.code == 0 and result.out.strip() == TEXT


@pytest.mark.parametrize("maker", ["audio.cpp", "CrispASR"])
def test_files_of_other_converters_give_text(maker, tmp_path, run, monkeypatch):
    """With all that their converter puts in, and in capitals as some name them."""
    monkeypatch.chdir(tmp_path)
    config, tokenizer = ggufs.config_of(TINY), (TINY / "tekken.json").read_bytes()
    tensors, path = converters.our_tensors(TINY, config), tmp_path / "my tiny.GGUF"
    options = ["--precision", "q4f16"]
    if maker == "audio.cpp":
        files = converters.audio_cpp_files(config, tokenizer)
        converters.write_audio_cpp(path, tensors, files, "Q4_0")
    else:
        converters.write_crispasr(path, config, tensors, tokenizer, "Q4_0")
        options += ["--tokenizer", TINY / "tekken.json"]
    exported = run("export", path.name, *options)
    assert exported.code == 0, exported.err
    folder = tmp_path / "my tiny-onnx"
    assert "bit-equal: 7" in exported.err and Manifest.read(folder).config == config
    result = run("transcribe", "-m", folder, CLIP)
    assert result.code == 0 and result.out.strip() == TEXT


def test_the_artifact_holds_the_values_of_the_gguf(q4_0, from_q4_0):
    """Read by the definition of MatMulNBits, against the package's reading of the file."""
    found, recipe, config = weights_of(from_q4_0, "q4f16")
    assert recipe.name == "gguf-q4_0"
    stored = content_of(q4_0)
    count = 0
    for name, shape in names.tensor_shapes(config).items():
        if ".ada_rms_norm." in name or len(shape) != 2:
            continue
        values = ggufs.half_split(
            ggufs.read(stored[schemes.mistral_name(name)][1], "Q4_0"), name, config
        )
        rule = recipe.rule_for(name.removesuffix(".weight"))
        scales = found[name.removesuffix("weight") + "scales"].rows()
        packed = found[name].stored_rows().reshape(*scales.shape, 16)
        assert rule
        assert np.array_equal(
            dequantize_blockwise(Blocks(packed, scales, None), rule, shape[1]), values
        ), name
        count += 1
    assert count == 73


def test_report_says_that_every_block_is_kept(from_q4_0):
    report = report_of(from_q4_0, "q4f16")
    assert report["summary"] == "bit-equal: 73 Q4_0; as floats: 50 F32; in the delay gains: 8 Q4_0"
    assert report["tensors"][4] == {
        "tensor": "audio_tower.layers.0.input_layernorm.weight",
        "stored": "F32",
        "as": "float16",
        "result": "float",
    }
    assert report["tensors"][5]["as"] == "4 bits in blocks of 32, as_stored"


@pytest.mark.parametrize("part", ["weight", "scales"])
def test_report_notices_one_changed_bit(part, q4_0, from_q4_0, tmp_path):
    folder = shutil.copytree(from_q4_0, tmp_path / "damaged")
    manifest, module = Manifest.read(folder), "language_model.layers.2.self_attn.k_proj"
    tensor = read_initializers(folder, manifest.precisions["q4f16"].decoder)[f"{module}.{part}"]
    (path,) = (
        folder / name
        for name in manifest.precisions["q4f16"].decoder.data
        if (folder / name).stat().st_size == len(tensor.span.pieces[0].mapping)
    )
    with path.open("r+b") as file:
        file.seek(tensor.span.pieces[0].offset + 100)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    entries = compare(folder, manifest, "q4f16", open_checkpoint(q4_0, TINY / "tekken.json"), 1)
    assert [entry["tensor"] for entry in entries if entry["result"] == "differs"] == [
        f"{module}.weight"
    ]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One layer with every type, exported.

    The values of each type under our names and in our order, the folder.
    """
    folder, params = tmp_path_factory.mktemp("mixed"), small_params()
    for stack in (params, params["multimodal"]["whisper_model_args"]["encoder_args"]):
        stack.update(dim=256, hidden_dim=256, n_heads=8, n_kv_heads=8)
    config, rng = VoxtralConfig.from_params(params), np.random.default_rng(11)
    tensors, kinds = {}, {}
    for name, shape in names.tensor_shapes(config).items():
        tensors[schemes.mistral_name(name)] = 0.05 * rng.standard_normal(shape, dtype=np.float32)
        if kind := [kind for part, kind in KINDS.items() if name.endswith(f"{part}.weight")]:
            kinds[name] = kind[0]
    theirs = {schemes.mistral_name(name): kind for name, kind in kinds.items()}
    values = ggufs.write_model(
        folder / "mixed.gguf", config, tensors, lambda name: theirs.get(name, "F32")
    )
    options = {"tokenizer": TINY / "tekken.json", "precisions": ("q4f16", "q8", "fp32")}
    out = export(folder / "mixed.gguf", folder / "out", **options)
    return {
        name: (kinds[name], ggufs.half_split(values[schemes.mistral_name(name)], name, config))
        for name in kinds
    }, out


def test_every_other_type_is_rounded_by_the_recipe(mixed):
    tensors, folder = mixed
    assert {kind for kind, _ in tensors.values()} | {"F32"} == set(ggufs.TYPES)
    found, recipe, _ = weights_of(folder, "q4f16")
    report = {entry["tensor"]: entry for entry in report_of(folder, "q4f16")["tensors"]}
    for name, (kind, values) in tensors.items():
        rule = recipe.rule_for(name.removesuffix(".weight"))
        assert rule and report[name]["stored"] == kind
        assert report[name]["result"] == ("exact" if kind == "Q4_0" else "requantised")
        if kind != "Q4_0":
            packed = quantize_blockwise(values, rule).packed
            assert np.array_equal(found[name].stored_rows(), packed.reshape(len(packed), -1)), name
    assert (
        "bit-equal: 2 Q4_0; requantised: 1 BF16, 1 F16, 1 Q2_K, 1 Q3_K, 1 Q4_1, "
        in report_of(folder, "q4f16")["summary"]
    )


def test_blocks_of_q8_0_are_kept(mixed):
    tensors, folder = mixed
    assert "bit-equal: 2 Q8_0; " in report_of(folder, "q8")["summary"]
    found, recipe, _ = weights_of(folder, "q8")
    assert recipe.name == "gguf-q8_0"
    kept = {name: values for name, (kind, values) in tensors.items() if kind == "Q8_0"}
    assert len(kept) == 2
    for name, values in kept.items():
        rule = recipe.rule_for(name.removesuffix(".weight"))
        scales = found[name.removesuffix("weight") + "scales"].rows()
        packed = found[name].stored_rows().reshape(*scales.shape, 32)
        assert rule
        assert np.array_equal(
            dequantize_blockwise(Blocks(packed, scales, None), rule, values.shape[1]), values
        ), name


def test_every_type_is_exact_in_float32(mixed):
    tensors, folder = mixed
    found, _, _ = weights_of(folder, "fp32")
    for name, (_, values) in tensors.items():
        held = found[name].rows()
        assert np.array_equal(held if name == names.EMBEDDING else held.T, values), name


def test_a_gguf_of_the_same_values_is_the_same_artifact(toy_checkpoint, toy_artifact, tmp_path):
    """As every layout is, byte for byte; a file without blocks has nothing to report."""
    path = tmp_path / "toy.gguf"
    ggufs.write_model(path, toy.toy_config(), ggufs.mistral_tensors(toy_checkpoint), "BF16")
    options = {"precisions": ("q4",), "recipe": str(EXACT_RECIPE)}
    folder = export(path, tmp_path / "out", tokenizer=toy_checkpoint / "tekken.json", **options)
    for file in folder.rglob("*.*"):
        wanted = toy_artifact / file.relative_to(folder)
        assert file.name == "voxtral_onnx.json" or file.read_bytes() == wanted.read_bytes(), file
    assert Manifest.read(folder).fingerprint == Manifest.read(toy_artifact).fingerprint
