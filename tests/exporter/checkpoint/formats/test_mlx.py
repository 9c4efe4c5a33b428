"""MLX's groups against its own definition of their bits; what does not fit is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import quantised
from support.checkpoints import small_config, small_params, small_tensors

from voxtral_onnx.exporter.checkpoint import names, schemes
from voxtral_onnx.exporter.checkpoint.formats.mlx import MLX_AUDIO, VOXMLX, is_mlx, join_mlx
from voxtral_onnx.exporter.checkpoint.formats.safetensors import open_safetensors
from voxtral_onnx.exporter.checkpoint.formats.scaled import integers
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.checkpoint.remote import find_remote

NAME = "language_model.layers.0.mlp.gate_proj.weight"
MODULE = NAME.removesuffix(".weight")


@pytest.mark.parametrize(
    ("bits", "content", "codes"),
    [  # MLX's `extract_bits`: where a code goes over a byte's border
        (3, [0x88, 0xC6, 0xFA], [0, 1, 2, 3, 4, 5, 6, 7]),
        (4, [0x21, 0x43, 0x65, 0x87], [1, 2, 3, 4, 5, 6, 7, 8]),
        (6, [0b10_000001, 0b0011_0000, 0b111111_01], [1, 2, 19, 63]),
        (8, [9, 0, 255, 128], [9, 0, 255, 128]),
    ],
)
def test_codes_stand_where_mlx_reads_them(bits, content, codes):
    stored = np.array([content], np.uint8)
    assert integers(bits).decode(stored).tolist() == [[float(code) for code in codes]]


@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    size=st.sampled_from([32, 64, 128]),
    shape=st.tuples(st.integers(2, 4), st.integers(1, 3)),
    seed=st.integers(0, 9),
)
def test_a_matrix_means_what_mlx_computes(bits, size, shape, seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    value = torch.from_numpy(rng.standard_normal((shape[0], shape[1] * size), np.float32))
    stored, wanted = quantised.affine({NAME: value}, lambda name: True, bits=bits, size=size)
    path = tmp_path_factory.mktemp("mlx") / "file"
    save_file(stored, path)
    config = {"quantization": {"bits": bits, "group_size": size}}
    tensor = join_mlx("x", open_safetensors(path), config)[NAME]
    order = rng.permutation(shape[0])
    values = wanted[NAME][order]
    moved = tensor.arranged("b", order)
    assert np.array_equal(moved.rows(), values)
    assert np.array_equal(moved.rows(1), values[1:])
    assert np.array_equal(moved.columns(5, 30, 0, shape[0]), values[:, 5:30].T)
    assert tensor.encoding.kept is None and tensor.encoding.name == f"MLX {bits}-bit"


@pytest.mark.parametrize(
    ("scheme", "rename"),
    [(MLX_AUDIO, quantised.mlx_audio_name), (VOXMLX, quantised.voxmlx_name)],
)
def test_names_are_those_of_the_converters(scheme, rename):
    for name in names.tensor_shapes(small_config()):
        assert scheme.rename(name) == rename(schemes.mistral_name(name))


def small_config_of_mlx() -> dict:
    return {**small_params(), "quantization": {"bits": 4, "group_size": 32}}


@pytest.fixture
def folder(tmp_path):
    """A small model of voxmlx with one matrix in groups."""
    tensors = {
        quantised.voxmlx_name(name): torch.from_numpy(value.swapaxes(1, 2).copy())
        if value.ndim == 3
        else torch.from_numpy(value)
        for name, value in small_tensors().items()
    }
    stored, _ = quantised.affine(tensors, lambda name: name == NAME, bits=4, size=32)
    return quantised.write(tmp_path / "checkpoint", stored, config=small_config_of_mlx())


@pytest.mark.parametrize("weights", ["model.safetensors", "weights.safetensors"])
def test_a_repository(weights, folder, hub_server):
    """It has no processor's config, and a file of weights by either name."""
    (folder / "model.safetensors").rename(folder / weights)
    (folder / "pytorch_model.bin").write_bytes(b"of another kind")
    hub_server.publish("org/name", folder)
    remote = find_remote("org/name")
    assert remote is not None and list(remote.weights) == [weights]
    assert open_checkpoint(remote.fetch()).layout == "voxmlx"
    assert hub_server.taken() == ["config.json", "tekken.json", weights]


def edit(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_module_may_have_its_own_bits(folder):
    config = small_config_of_mlx()
    config["quantization"] = {"bits": 8, "group_size": 64, MODULE: {"bits": 4, "group_size": 32}}
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder).tensors[NAME].encoding.name == "MLX 4-bit"


@pytest.mark.parametrize(
    ("quantization", "parts"),
    [
        ({"bits": 8, "group_size": 32}, [NAME, "U32 [N, K * 8 / 32]", "got U32 [64, 8]"]),
        ({"bits": 4, "group_size": 64}, [NAME, "[N, K / 64] in floats", "F32 [64, 2]"][:2]),
        ({"bits": 7, "group_size": 64}, ["Invalid enum value 7", "bits"]),
        ({"bits": 4}, ["missing required field `group_size`"]),
        ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, ["Invalid enum value 'mxfp4'"]),
        ({"bits": 4, "group_size": 0}, ["group_size"]),
        (None, ["Expected `object`, got `null`"]),
        ([4, 64], ["Expected `object`, got `array`"]),
    ],
)
def test_a_config_that_does_not_fit(quantization, parts, folder, run, tmp_path):
    config = {**small_params(), "quantization": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    run("export", folder, "-o", tmp_path / "out").assert_refused(3, str(folder), NAME, *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda t: t.pop(f"{MODULE}.biases"), "U32 [64, 8], BF16 [64, 2]"),
        (lambda t: t.pop(NAME), "BF16 [64, 2], BF16 [64, 2]"),
        (lambda t: t.update({NAME: torch.zeros(64, 64)}), "F32 [64, 64], BF16"),
        (lambda t: t.update({NAME: torch.zeros(8, dtype=torch.uint32)}), "U32 [8], BF16"),
        (lambda t: t.update({f"{MODULE}.scales": torch.ones(64, 1)}), "F32 [64, 1]"),
    ],
)
def test_parts_that_do_not_fit(change, got, folder, run, tmp_path):
    edit(folder, change)
    run("export", folder, "-o", tmp_path / "out").assert_refused(3, NAME, "expected U32", got)


@pytest.mark.parametrize("mode", ["affine", "mxfp8"])
def test_two_quantisations_must_be_alike(mode, folder, run, tmp_path):
    one = {"bits": 4, "group_size": 32, "mode": "affine"}
    config = {**small_params(), "quantization": one, "quantization_config": {**one, "mode": mode}}
    (folder / "config.json").write_text(json.dumps(config))
    result = run("export", folder, "-o", tmp_path / "out")
    if mode == "affine":
        assert result.code == 0
    else:
        result.assert_refused(3, str(folder), "expected one quantization, got two that differ")


def test_codes_without_scales_are_no_floats(folder, run, tmp_path):
    edit(folder, lambda t: (t.pop(f"{MODULE}.scales"), t.pop(f"{MODULE}.biases")))
    result = run("export", folder, "-o", tmp_path / "out")
    result.assert_refused(3, NAME, "expected BF16, F16 or F32, got U32 [64, 8]", "not known")


@pytest.mark.parametrize("key", ["decoder", "audio_encoding_args"])
def test_a_config_of_mlx_audio_that_lacks_a_part(key, tmp_path, run):
    config = quantised.mlx_audio_config()
    config.pop(key, None)
    config["encoder_args"].pop(key, None)
    quantised.write(tmp_path / "x", {"a": torch.zeros(1)}, config=config)
    run("export", tmp_path / "x").assert_refused(3, f"expected an object '{key}'")


def test_configs_are_told_apart():
    assert is_mlx(quantised.mlx_audio_config()) and is_mlx(quantised.voxmlx_config())
    assert not is_mlx({"audio_config": {}, "text_config": {}}) and not is_mlx({})
