"""Packed integers and 8-bit floats against the tools' own definitions; what is refused, and why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import quantised
from support.checkpoints import small_params, small_tensors, write_hf, write_mistral

from voxtral_onnx import export
from voxtral_onnx.errors import CheckpointError, QuantizationError
from voxtral_onnx.exporter.binding.recipes import weight_recipes
from voxtral_onnx.exporter.binding.source_report import compare
from voxtral_onnx.exporter.checkpoint import schemes
from voxtral_onnx.exporter.checkpoint.formats.compressed import join_compressed
from voxtral_onnx.exporter.checkpoint.formats.safetensors import open_safetensors
from voxtral_onnx.exporter.checkpoint.formats.scaled import Scaled
from voxtral_onnx.exporter.checkpoint.open import Checkpoint, open_checkpoint
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.quant.packing import unpack
from voxtral_onnx.quant.recipe import Recipe, Rule

WEIGHTS = "consolidated.safetensors"
PROJECTION = "layers.0.feed_forward.w1.weight"
KEYS = "layers.0.attention.wk.weight"


def small(which=lambda name: name in (PROJECTION, KEYS), **options) -> quantised.Tensors:
    """The tensors of a small model with some matrices packed."""
    tensors = {name: torch.from_numpy(value) for name, value in small_tensors().items()}
    return quantised.packed(tensors, which, **options)[0]


@pytest.fixture
def folder(tmp_path):
    """A small model with two packed matrices."""
    folder = write_mistral(tmp_path / "checkpoint")
    save_file(small(), folder / WEIGHTS)
    return folder


def edit(folder, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def configure(folder, **quantization) -> None:
    params = {**small_params(), "quantization": quantization}
    (folder / "params.json").write_text(json.dumps(params))


@given(
    bits=st.sampled_from([4, 8]),
    size=st.sampled_from([16, 32, 64, 128]),
    shape=st.tuples(st.integers(2, 5), st.integers(1, 3)),
    seed=st.integers(0, 9),
    kind=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_packed_integers_are_the_numbers_that_were_packed(
    bits, size, shape, seed, kind, tmp_path_factory
):
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], shape[1] * size
    middle = 1 << (bits - 1)
    codes = rng.integers(-middle, middle, (rows, columns))
    scales = torch.from_numpy(rng.uniform(1e-3, 1e-1, (rows, shape[1]))).to(kind)
    path = tmp_path_factory.mktemp("packed") / "file"
    parts = {
        "a.weight_packed": torch.from_numpy(quantised.pack_to_int32(codes, bits)),
        "a.weight_scale": scales,
        "a.weight_shape": torch.tensor([rows, columns]),
    }
    save_file(parts, path)
    (tensor,) = join_compressed("x", open_safetensors(path)).values()
    values = codes.reshape(rows, -1, size).astype(np.float32) * scales.float().numpy()[..., None]
    values = values.reshape(rows, columns)

    # Floats, by rows and by columns, in another order of rows too
    order = rng.permutation(rows)
    for one, wanted in ((tensor, values), (tensor.arranged("b", order), values[order])):
        assert np.array_equal(one.rows(), wanted)
        assert np.array_equal(one.rows(1, rows), wanted[1:])
        assert np.array_equal(one.columns(3, columns - 2, 0, rows), wanted[:, 3 : columns - 2].T)

    # Blocks, by both ways
    kept = tensor.encoding.kept
    assert kept and (kept.bits, kept.block_size) == (bits, size)
    moved = tensor.arranged("b", order)
    blocks = moved.blocks(0, rows)
    unsigned = (codes[order] + middle).reshape(rows, -1, size)
    assert np.array_equal(unpack(blocks.packed, bits, size), unsigned)
    assert np.array_equal(blocks.scales, scales[order].float().numpy())
    found, decoded = moved.scales_and_codes(0, rows)
    assert np.array_equal(found, blocks.scales) and np.array_equal(decoded, unsigned)
    part = moved.blocks(0, rows, 1, shape[1])
    assert np.array_equal(part.packed, blocks.packed[:, 1:])
    assert np.array_equal(part.scales, blocks.scales[:, 1:])


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_what_torch_reads(kind, per_tensor, tmp_path):
    """Every code, not-a-numbers included, under a scale for each row or for all."""
    codes = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    scales = torch.tensor([[0.5], [3.0], [0.0], [1e-3]]).to(torch.bfloat16)
    scales = scales[1, :] if per_tensor else scales
    save_file({"a.weight": codes.view(kind), "a.weight_scale": scales}, tmp_path / "file")
    (tensor,) = join_compressed("x", open_safetensors(tmp_path / "file")).values()
    wanted = (codes.view(kind).float() * scales.float()).numpy()
    order = np.array([2, 0, 3, 1])
    with np.errstate(invalid="ignore"):
        assert np.array_equal(tensor.rows(), wanted, equal_nan=True)
        moved = tensor.arranged("b", order)
        assert np.array_equal(moved.rows(1, 3), wanted[order][1:3], equal_nan=True)
        columns = moved.columns(7, 50, 1, 4)
    assert np.array_equal(columns, wanted[order][1:4, 7:50].T, equal_nan=True)


def test_other_forms_of_graphs_keep_blocks_too(folder):
    """Codes stored transposed, as the portable graphs have them, are the same codes."""
    checkpoint = open_checkpoint(folder)
    for module in (
        "language_model.layers.0.mlp.gate_proj",
        "language_model.layers.0.self_attn.k_proj",
    ):
        tensor = checkpoint.tensors[f"{module}.weight"]
        made = []
        for standard in (False, True):
            recipe = Recipe("mine", 0, (Rule("*", 4, 32, "as_stored"),))
            part = PartFactory("float32", recipe, standard).linear(
                module, tensor.shape[1], tensor.shape[0]
            )
            (one,) = weight_recipes({module: part}, checkpoint)
            made.append(one.make(0, one.num_rows))
        native, portable = made
        codes = unpack(native[f"{module}.weight"], 4, 32).reshape(tensor.shape)
        assert np.array_equal(unpack(portable[f"{module}.weight"], 4, tensor.shape[0]), codes.T)
        assert np.array_equal(portable[f"{module}.scales"], native[f"{module}.scales"].T)


def test_parts_may_be_in_different_shards(tmp_path):
    checkpoint = open_checkpoint(hf_in_shards(tmp_path / "hf"))
    packed = [name for name, tensor in checkpoint.tensors.items() if isinstance(tensor, Scaled)]
    assert len(packed) == 14


def hf_in_shards(folder):
    write_hf(folder)
    tensors = {n: torch.from_numpy(v) for n, v in small_tensors(schemes.HF).items()}
    tensors, _ = quantised.packed(tensors, quantised.is_linear)
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places = {name: files[at % 2] for at, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def test_scales_that_float16_rounds_are_said(folder, tmp_path):
    """In float32 graphs they are exact."""
    save_file(small(dtype=torch.float32), folder / WEIGHTS)
    out = export(folder, tmp_path / "out", precisions=("q4f16", "q4"))
    report = json.loads((out / "source_report.json").read_text())["precisions"]
    assert report["q4f16"]["summary"].startswith(
        "bit-equal but for scales rounded to float16: 2 W4A16"
    )
    assert report["q4"]["summary"].startswith("bit-equal: 2 W4A16")


@pytest.mark.parametrize("scale", [np.inf, np.nan, 70_000])
def test_scales_that_no_graph_can_have_are_refused(scale, folder, run, tmp_path):
    edit(folder, lambda tensors: tensors[f"{PROJECTION}_scale"].view(-1).__setitem__(5, scale))
    tensor = open_checkpoint(folder).tensors["language_model.layers.0.mlp.gate_proj.weight"]
    with pytest.raises(QuantizationError, match=r"gate_proj.*finite scales in float16's range"):
        tensor.blocks(0, 64)


def test_a_bit_that_changes_is_noticed(folder, tmp_path):
    """The report decodes the source by its own definition, and the artifact by MatMulNBits'."""
    out = export(folder, tmp_path / "out", precisions=("q4",))
    edit(folder, lambda tensors: tensors[f"{KEYS}_packed"].view(-1).__setitem__(3, 12345))
    edit(folder, lambda tensors: tensors[f"{PROJECTION}_scale"].view(-1).__setitem__(3, 0.01))
    entries = compare(out, Manifest.read(out), "q4", open_checkpoint(folder), 1)
    assert [entry["tensor"] for entry in entries if entry["result"] == "differs"] == [
        "language_model.layers.0.self_attn.k_proj.weight",
        "language_model.layers.0.mlp.gate_proj.weight",
    ]


def zero_point(tensors):
    tensors[f"{PROJECTION}_zero_point"] = torch.zeros(8, 2, dtype=torch.int32)


def act_order(tensors):
    tensors[f"{PROJECTION}_g_idx"] = torch.arange(64).flip(0).to(torch.int32) // 32


def replaced(part, value):
    return lambda tensors: tensors.__setitem__(f"{PROJECTION}_{part}", value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda tensors: tensors.update({PROJECTION: torch.zeros(64, 64)}),
            ["the same weight twice: expected it alone, found weight beside it"],
        ),
        (zero_point, ["asymmetric weights: expected symmetric ones"]),
        (act_order, ["weight_g_idx", "act-order", "expected groups of neighbours"]),
        (
            replaced("scale", torch.ones(64, 1)),
            [],
        ),
        (replaced("scale", torch.ones(64, 8)), ["one for 16, 32, 64 or 128", "one for 8 values"]),
        (replaced("scale", torch.ones(64, 3)), ["weight_scale [64, groups]", "got [64, 3]"]),
        (replaced("scale", torch.ones(2, 2)), ["weight_scale [64, groups]", "got [2, 2]"]),
        (replaced("scale", torch.ones(1)), ["one for a row (per-channel)"]),
        (replaced("scale", torch.ones(64, 2).to(torch.int32)), ["BF16, F16 or F32", "got I32"]),
        (replaced("shape", torch.tensor([64, 48])), ["4 or 8 bits", "[64, 48], got I32 [64, 8]"]),
        (replaced("shape", torch.tensor([32, 64])), ["4 or 8 bits for each value of [32, 64]"]),
        (replaced("shape", torch.tensor([64, -64])), ["4 or 8 bits for each value of [64, -64]"]),
        (replaced("shape", torch.tensor([64.0, 64.0])), ["weight_shape, two integers"]),
        (lambda tensors: tensors.pop(f"{PROJECTION}_shape"), ["weight_shape, two integers"]),
        (lambda tensors: tensors.pop(f"{PROJECTION}_scale"), ["weight_scale", "got nothing"]),
        (
            replaced("packed", torch.zeros(64, 8, dtype=torch.uint8)),
            ["expected I32 [N, K * bits / 32], got U8 [64, 8]"],
        ),
    ],
)
def test_parts_that_do_not_fit(change, parts, folder, refuse):
    edit(folder, change)
    if parts:
        refuse(folder, f"{PROJECTION}_packed", *parts)
    else:  # 64 values are a block of MatMulNBits
        kept = open_checkpoint(folder).tensors["language_model.layers.0.mlp.gate_proj.weight"]
        assert kept.encoding.kept and kept.encoding.kept.block_size == 64


def test_scales_per_channel_are_refused_with_the_reason(refuse, tmp_path):
    """Rows of 256 have one scale each, more values than a block of MatMulNBits can have."""
    tensors, _ = quantised.packed(quantised.tiny_tensors(), lambda name: ".w1." in name, size=256)
    folder = quantised.write(tmp_path / "x", tensors, WEIGHTS, params=quantised.tiny_params())
    refuse(folder, "as MatMulNBits has them, got one for a row (per-channel)", "checkpoint of floa")


def test_columns_in_order_are_no_act_order(folder):
    edit(folder, replaced("g_idx", torch.arange(64, dtype=torch.int32) // 32))
    assert open_checkpoint(folder).tensors["language_model.layers.0.mlp.gate_proj.weight"]


@pytest.mark.parametrize(
    ("quantization", "parts"),
    [
        ({"quant_method": "awq"}, ["expected weights of compressed-tensors, got those of awq"]),
        ({"quant_method": "gptq", "bits": 4}, ["got those of gptq"]),
        ({"quant_method": "bitsandbytes"}, ["got those of bitsandbytes"]),
        (quantised.packed_config(actorder="group"), ["actorder group", "act-order"]),
        (quantised.packed_config(symmetric=False), ["asymmetric weights"]),
        (
            {**quantised.packed_config(), "format": "nvfp4-pack-quantized"},
            ["format nvfp4-pack-quantized: expected pack-quantized or float-quantized"],
        ),
        ({**quantised.packed_config(), "format": "marlin-24"}, ["format marlin-24"]),
        ({"format": "pack-quantized"}, ["missing required field `quant_method`"]),
        ([1], ["Expected `object`"]),
    ],
)
def test_configs_of_what_is_not_read(quantization, parts, folder, refuse):
    params = {**small_params(), "quantization": quantization}
    (folder / "params.json").write_text(json.dumps(params))
    refuse(folder, "params.json", *parts, "a checkpoint of floats instead")


@pytest.mark.parametrize("actorder", [None, "weight", "static"])
def test_orders_that_leave_columns_in_place_are_read(actorder, folder):
    configure(folder, **quantised.packed_config(actorder=actorder))
    assert isinstance(open_checkpoint(folder), Checkpoint)


def test_float8_without_a_scale(folder, refuse):
    edit(
        folder,
        lambda tensors: tensors.update(
            {
                "norm.weight": tensors["norm.weight"],
                KEYS.replace("wk", "wo"): torch.zeros(64, 64).to(torch.float8_e4m3fn),
            }
        ),
    )
    refuse(folder, "layers.0.attention.wo.weight", "expected weight_scale beside it, found none")


def test_a_config_that_lies_about_shapes(folder, refuse):
    """The packed tensor is named by the matrix that it makes up."""
    params = small_params()
    params["hidden_dim"] = 96
    (folder / "params.json").write_text(json.dumps(params))
    refuse(folder, f"misshapen {PROJECTION}: expected [96, 64], got [64, 64]")


def test_scales_of_activations_are_not_needed(tmp_path):
    tensors = {
        "a.weight": torch.ones(2, 4).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.ones(1),
    }
    save_file({**tensors, "a.input_scale": torch.ones(1)}, tmp_path / "file")
    assert join_compressed("x", open_safetensors(tmp_path / "file")).keys() == {"a.weight"}


def test_a_block_of_8_bit_floats_in_squares(tmp_path):
    tensors = {"a.weight": torch.ones(4, 8).to(torch.float8_e4m3fn)}
    save_file({**tensors, "a.weight_scale": torch.ones(2, 2)}, tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"weight_scale \[4, groups\] .* got \[2, 2\]"):
        join_compressed("x", open_safetensors(tmp_path / "file"))
