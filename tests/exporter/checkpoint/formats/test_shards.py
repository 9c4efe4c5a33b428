"""Which files a GGUF is, of those in a folder; test_gguf.py has the ways in which shards fail."""

from __future__ import annotations

import shutil

import pytest
from support import converters, ggufs
from support.checkpoints import TINY, small_config, small_tensors, write_hf, write_mistral

from voxtral_onnx.exporter.checkpoint.open import open_checkpoint


@pytest.fixture
def whole(tmp_path):
    """A GGUF in capitals, and its tokenizer."""
    folder = tmp_path / "my model"
    folder.mkdir()
    ggufs.write_model(folder / "The Model Q8.GGUF", small_config(), small_tensors(), "Q8_0")
    shutil.copyfile(TINY / "tekken.json", folder / "tekken.json")
    return folder / "The Model Q8.GGUF"


def test_a_gguf_is_found_by_file_folder_and_pattern(whole):
    opened = [open_checkpoint(source) for source in (whole, whole.parent, whole.with_name("The*"))]
    assert [next(iter(checkpoint.files)) for checkpoint in opened] == [whole] * 3


def test_a_gguf_beside_a_config_is_read(whole):
    """Some repositories of GGUFs keep Hugging Face's small files."""
    (whole.parent / "config.json").write_text("{}")
    assert open_checkpoint(whole.parent).layout == "mistral"


@pytest.mark.parametrize("write", [write_mistral, write_hf])
def test_a_gguf_beside_safetensors_is_one_model_too_many(write, whole, tmp_path, refuse):
    folder = write(tmp_path / "both")
    beside = shutil.copyfile(whole, folder / whole.name)
    name = "consolidated.safetensors" if write is write_mistral else "model-00001-of-00002"
    refuse(folder, f"expected one model, found {name}", str(beside), "move it elsewhere")
    assert open_checkpoint(beside).tensors  # which the message says


@pytest.mark.parametrize("content", [b"", bytes(4096)], ids=["empty", "zeros"])
def test_a_gguf_whose_beginning_has_not_come(content, whole, refuse):
    whole.write_bytes(content)
    for source in (whole, whole.parent):
        refuse(source, f"{whole}: expected a GGUF, its first bytes are", "download it again")


def test_a_model_that_llama_cpp_has_split_is_refused_by_name(tmp_path, refuse):
    (tmp_path / "split").mkdir()
    decoder, encoder = converters.write_llama_cpp(tmp_path / "split")
    shutil.copyfile(TINY / "tekken.json", tmp_path / "split" / "tekken.json")
    why = ("llama.cpp has split in two", "the gains of one delay", "a GGUF that holds it whole")
    refuse(decoder, f"{decoder}: blk.0.ffn_ada_norm_up.weight: a model that", *why)
    refuse(encoder, f"{encoder}: a.blk.0.attn_q.weight: a model that", *why)
    refuse(tmp_path / "split", f"{tmp_path / 'split'}: a model that", *why)
    shutil.copyfile(decoder, tmp_path / "split" / "another.gguf")
    refuse(tmp_path / "split", "several GGUFs: another.gguf, mmproj-", "name one of them")
