"""Formats that are not read are refused by their names, with what to export instead."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import write_hf, write_mistral
from support.ggufs import config_of, mistral_tensors, write_model

from voxtral_onnx.errors import CheckpointError
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.checkpoint.remote import find_remote

RELEASE = "mistralai/Voxtral-Mini-4B-Realtime-2602"
FOREIGN = [
    (["model-metal-int4.pte", "preprocessor.pte"], "an ExecuTorch program"),
    (["config.json", "onnx/decoder_q4.onnx", "tokenizer.json"], "such as transformers.js loads"),
    (["config.json", "pytorch_model.bin"], "weights that PyTorch pickled"),
    (["consolidated.00.pth", "params.json"], "weights that PyTorch pickled"),
    (["adapter_config.json", "adapter_model.safetensors"], "a LoRA adapter alone"),
    (["weights.npz", "config.json"], "MLX weights of an early version"),
]


@pytest.mark.parametrize(("files", "what"), FOREIGN)
def test_folders(files, what, tmp_path, run):
    for name in files:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"{}")
    result = run("export", tmp_path / "x", "-o", tmp_path / "out")
    result.assert_refused(3, str(tmp_path / "x"), what, "expected weights in safetensors or a GGUF")
    assert not (tmp_path / "out").exists()


def test_a_file(tmp_path, run):
    """A GGUF of such a name is read all the same."""
    path = tmp_path / "model.pte"
    path.write_bytes(b"ET12 and more")
    run("export", path).assert_refused(3, "found model.pte, an ExecuTorch program", RELEASE)
    folder = write_mistral(tmp_path / "x")
    write_model(tmp_path / "model.bin", config_of(folder), mistral_tensors(folder), "F16")
    assert open_checkpoint(tmp_path / "model.bin", folder / "tekken.json").layout == "mistral"


@pytest.mark.parametrize(("files", "what"), [FOREIGN[0], FOREIGN[1], FOREIGN[2]])
def test_repositories(files, what, hub_server):
    """Before anything is downloaded."""
    hub_server.publish("org/name", dict.fromkeys(files, b"{}"))
    with pytest.raises(CheckpointError, match=what):
        find_remote("org/name")
    assert hub_server.taken() == []


@pytest.mark.parametrize(
    ("part", "packing"),
    [
        ("weight_global_scale", "NVFP4"),
        ("weight_scale_inv", "FP8 in square blocks"),
        ("weight.absmax", "bitsandbytes"),
        ("qzeros", "AWQ or GPTQ"),
        ("qweight", "GPTQ, AWQ or Marlin"),
        ("B", "Marlin"),
    ],
)
def test_packings(part, packing, tmp_path, run):
    folder = write_mistral(tmp_path / "x")
    path = folder / "consolidated.safetensors"
    name = f"layers.0.attention.wq.{part}"
    save_file({**load_file(path), name: torch.zeros(4, 4, dtype=torch.int32)}, path)
    result = run("export", folder, "-o", tmp_path / "out")
    result.assert_refused(3, f"{path}: {name}: weights packed by {packing}", RELEASE)
    assert not (tmp_path / "out").exists()


def test_a_right_name_with_an_unknown_packing(tmp_path, run):
    folder = write_mistral(tmp_path / "x")
    path = folder / "consolidated.safetensors"
    name = "layers.0.attention.wq.weight"
    save_file({**load_file(path), name: torch.zeros(64, 8, dtype=torch.int32)}, path)
    result = run("export", folder, "-o", tmp_path / "out")
    result.assert_refused(3, f"{name}: expected BF16, F16 or F32, got I32 [64, 8]", "not known")


def test_a_missing_processor_config_is_named_with_its_address(tmp_path, run, hub_server):
    folder = write_hf(tmp_path / "hf")
    (folder / "processor_config.json").unlink()
    url = f"https://huggingface.co/{RELEASE}/resolve/main/processor_config.json"
    result = run("export", folder, "-o", tmp_path / "out")
    result.assert_refused(3, str(folder / "processor_config.json"), "missing", url)
    hub_server.publish("org/name", folder)
    with pytest.raises(CheckpointError, match="its checkpoint lacks processor_config") as raised:
        find_remote("org/name")
    assert url in str(raised.value)


def test_shards_without_their_index(tmp_path, run):
    folder = write_hf(tmp_path / "hf")
    (folder / "model.safetensors.index.json").unlink()
    result = run("export", folder, "-o", tmp_path / "out")
    shard = "model-00001-of-00002.safetensors"
    result.assert_refused(3, "model.safetensors.index.json: missing, but there is", shard)


@pytest.mark.parametrize("with_index", [True, False])
def test_two_models_in_one_folder(with_index, tmp_path, run):
    folder = write_hf(tmp_path / "hf")
    others = ["model.safetensors"]
    if not with_index:
        (folder / "model.safetensors.index.json").unlink()
        others.append("weights.safetensors")
    for name in others:
        save_file({"a": torch.zeros(1)}, folder / name)
    result = run("export", folder, "-o", tmp_path / "out")
    result.assert_refused(3, f"{folder}: two models: {others[-1]}, and model.safetensors")


def test_layouts_side_by_side(tmp_path):
    """Mistral's is read where it is whole, else the other; a GGUF where neither is."""
    folder = write_mistral(tmp_path / "both")
    config, tensors = config_of(folder), mistral_tensors(folder)
    for path in write_hf(tmp_path / "hf").iterdir():
        path.rename(folder / path.name)
    assert open_checkpoint(folder).layout == "mistral"
    (folder / "consolidated.safetensors").unlink()
    assert open_checkpoint(folder).layout == "huggingface"
    for path in folder.glob("*.safetensors"):
        path.unlink()
    values = {name: value.astype(np.float32) for name, value in tensors.items()}
    write_model(folder / "model.gguf", config, values, "F16")
    assert json.loads((folder / "config.json").read_text())
    assert open_checkpoint(folder).layout == "mistral" and (folder / "params.json").exists()
