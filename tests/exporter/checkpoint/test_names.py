"""Every layout of one checkpoint gives the same bytes."""

import hashlib

import pytest
from reference import toy
from safetensors.torch import load_file, save_file

from voxtral_onnx import export
from voxtral_onnx.exporter import export as exporter
from voxtral_onnx.exporter.checkpoint.names import tensor_shapes
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.graph.trace import trace


@pytest.fixture(scope="module")
def layouts(toy_model, toy_checkpoint, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("layouts"), toy.toy_config()
    whole = toy.write_hf(toy_model, config, folder / "hf")
    shards = toy.write_hf(toy_model, config, folder / "hf-shards", max_shard_size="200KB")
    live = toy.write_hf(toy_model, config, folder / "hf-live")
    state = {name: value.bfloat16().contiguous() for name, value in toy_model.state_dict().items()}
    state["lm_head.weight"] = state["lm_head.weight"].clone()
    save_file(state, live / "model.safetensors")
    assert len(list(shards.glob("*.safetensors"))) > 3
    return {"mistral": toy_checkpoint, "hf": whole, "hf-shards": shards, "hf-live": live}


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.*")
    }


def test_all_layouts_give_the_same_artifact(layouts, tmp_path):
    artifacts = {
        name: hashes(export(folder, tmp_path / name, precisions=["q4f16"]))
        for name, folder in layouts.items()
    }
    assert "voxtral_onnx.json" in artifacts["mistral"]
    assert all(files == artifacts["mistral"] for files in artifacts.values())


def test_layouts_are_told_apart(layouts):
    names = {name: open_checkpoint(folder).layout for name, folder in layouts.items()}
    assert names == {
        "mistral": "mistral",
        "hf": "huggingface",
        "hf-shards": "huggingface",
        "hf-live": "huggingface-live",
    }


def test_on_disk_names_are_those_of_save_pretrained(layouts):
    """711 tensors for the 4B model: the tensors follow from the configuration."""
    config = toy.toy_config()
    assert len(load_file(layouts["hf"] / "model.safetensors")) == len(tensor_shapes(config))


def test_census_of_the_released_model():
    from dataclasses import replace

    config = toy.toy_config()
    encoder = replace(
        config.encoder, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, head_dim=64,
    )  # fmt: skip
    decoder = replace(
        config.decoder, hidden_size=3072, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=131072,
    )  # fmt: skip
    shapes = tensor_shapes(replace(config, encoder=encoder, decoder=decoder))
    parameters = 0
    for shape in shapes.values():
        size = 1
        for axis in shape:
            size *= axis
        parameters += size
    assert len(shapes) == 711 and parameters == 4_429_679_360


def test_a_rerun_gives_the_same_bytes(toy_checkpoint, tmp_path, monkeypatch):
    """Traced anew, too.

    No other test does so twice, because graphs that one has traced are kept for the next.
    """
    first = hashes(export(toy_checkpoint, tmp_path / "first", precisions=["q4"]))
    monkeypatch.setattr(exporter, "trace", trace)
    again = hashes(
        export(toy_checkpoint, tmp_path / "again", precisions=["q4"], shard_size=1 << 29)
    )
    assert first == again


def test_shards_end_at_their_size(toy_checkpoint, tmp_path, toy_artifact):
    folder = export(toy_checkpoint, tmp_path / "sharded", precisions=["fp32"], shard_size=200_000)
    files = sorted(
        path.stat().st_size for path in (folder / "onnx").glob("decoder_model_merged.onnx_data*")
    )
    assert len(files) > 3 and sum(size > 200_000 for size in files) == 1  # the table stands alone
