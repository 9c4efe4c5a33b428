"""What the metadata of a GGUF says: whose names, which hyperparameters, which tokenizer.

What it may not say, too.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from support import converters, ggufs
from support.checkpoints import TINY, small_config, small_params, small_tensors

from voxtral_onnx.config import RELEASED, VoxtralConfig
from voxtral_onnx.errors import CheckpointError
from voxtral_onnx.exporter.checkpoint import names, schemes
from voxtral_onnx.exporter.checkpoint.formats.gguf_model import read_gguf_model
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint

MODEL = "model.gguf"
TOKENIZER = (TINY / "tekken.json").read_bytes()
CONFIG = small_config()
OURS = schemes.NamingScheme("ours", str, interleaved=False)


@pytest.fixture(scope="module")
def tensors():
    """Random values under our names."""
    return {name: value.astype(np.float32) for name, value in small_tensors(OURS).items()}


@pytest.fixture
def audio_cpp(tensors, tmp_path):
    """Write a file as audio.cpp does, with other files or lists in it."""

    def write(files=None, **options):
        held = converters.audio_cpp_files(CONFIG, TOKENIZER) if files is None else files
        return converters.write_audio_cpp(tmp_path / MODEL, tensors, held, "Q8_0", **options)

    return write


def stored(tensors, name, kind):
    return ggufs.read(ggufs.stored(tensors[name], kind), kind)


@pytest.mark.parametrize("longest_name", [converters.LONGEST_NAME, 40])
def test_a_file_of_audio_cpp_is_complete(longest_name, audio_cpp, tensors):
    checkpoint = open_checkpoint(audio_cpp(longest_name=longest_name))
    assert (checkpoint.layout, checkpoint.config) == ("audio.cpp", CONFIG)
    assert checkpoint.tokenizer == TOKENIZER
    assert [path.name for path in checkpoint.files] == [MODEL]
    projection = "language_model.layers.0.self_attn.q_proj.weight"
    kinds = {projection: "Q8_0", names.EMBEDDING: "F16", "audio_tower.norm.weight": "F32"}
    for name, kind in kinds.items():
        assert checkpoint.tensors[name].encoding.name == kind
        assert np.array_equal(checkpoint.tensors[name].rows(), stored(tensors, name, kind))
    aliased = re.findall(rb"_audiocpp\.[0-9]+", checkpoint.source.read_bytes())
    assert bool(aliased) == (longest_name < converters.LONGEST_NAME)


def test_the_shapes_beside_the_tensors_are_theirs(tensors, tmp_path):
    """An axis of one value in front, which the container drops, is there again."""
    held = {**tensors, "a.b": np.ones((1, 1, 4, 2), np.float32)}
    files = converters.audio_cpp_files(CONFIG, TOKENIZER)
    path = converters.write_audio_cpp(tmp_path / MODEL, held, files, "F16")
    model = read_gguf_model(path, [path])
    assert model.tensors["a.b"].shape == (1, 1, 4, 2)
    with pytest.raises(CheckpointError, match=r"unexpected a\.b \[1, 1, 4, 2\]"):
        open_checkpoint(path)


def test_the_tokenizer_is_the_named_one_else_the_one_inside_else_the_one_beside(
    audio_cpp, tmp_path
):
    beside, named = tmp_path / "tekken.json", tmp_path / "named.json"
    beside.write_bytes(TOKENIZER + b"\n")
    named.write_bytes(TOKENIZER + b"\n\n")
    path = audio_cpp()
    assert open_checkpoint(path).tokenizer == TOKENIZER
    assert open_checkpoint(path, named).tokenizer == named.read_bytes()
    files = converters.audio_cpp_files(CONFIG, TOKENIZER)
    del files["tekken.json"]
    assert open_checkpoint(audio_cpp(files)).tokenizer == beside.read_bytes()


def test_mistrals_hyperparameters_inside_come_first(audio_cpp):
    params = {**small_params(), "sliding_window": 77}
    files = converters.audio_cpp_files(CONFIG, TOKENIZER)
    path = audio_cpp(files | {"params.json": json.dumps(params).encode()})
    assert open_checkpoint(path).config.decoder.sliding_window == 77


def test_a_file_of_audio_cpp_without_files_is_the_released_model(audio_cpp, refuse):
    refuse(audio_cpp({}), "expected the 711 tensors", "audio.cpp layout", "expected [1280, 128, 3]")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"config.json": None}, ["expected the 711 tensors"]),
        ({"processor_config.json": None}, ["the file in it, processor_config.json: missing"]),
        ({"config.json": b"{"}, ["the file in it, config.json: not valid JSON"]),
        ({"config.json": b"{}"}, ["the file in it, config.json: "]),
        ({"config.json": b" " * (1 << 20) + b"{}"}, ["config.json: expected at most 1,048,576"]),
        ({"tekken.json": b"{}"}, ["tekken.json: expected a Tekken tokenizer"]),
    ],
    ids=["no-config", "no-processor", "no-json", "no-keys", "large", "no-tekken"],
)
def test_files_inside_that_are_none(change, parts, audio_cpp, refuse):
    files = converters.audio_cpp_files(CONFIG, TOKENIZER) | change
    files = {name: content for name, content in files.items() if content is not None}
    refuse(audio_cpp(files), MODEL if "tekken" not in parts[0] else "", *parts)


def test_hyperparameters_inside_that_lie_about_shapes(audio_cpp, refuse):
    larger = replace(CONFIG, decoder=replace(CONFIG.decoder, intermediate_size=96))
    files = converters.audio_cpp_files(larger, TOKENIZER)
    refuse(
        audio_cpp(files),
        "misshapen language_model.model.layers.0.mlp.gate_proj.weight: expected [96, 64], got "
        "[64, 64]",
    )


def test_the_right_name_in_another_packing(tensors, tmp_path, refuse):
    """A matrix as rows of 8 nibbles in a number, and one that is transposed."""
    packed = "language_model.layers.0.mlp.up_proj.weight"
    held = {**tensors, packed: tensors[packed][:, :8]}
    held[names.EMBEDDING] = tensors[names.EMBEDDING].T
    files = converters.audio_cpp_files(CONFIG, TOKENIZER)
    path = converters.write_audio_cpp(tmp_path / MODEL, held, files, "F32")
    refuse(
        path,
        "misshapen language_model.model.layers.0.mlp.up_proj.weight: expected [64, 64], got "
        "[64, 8]",
        "misshapen language_model.model.embed_tokens.weight: expected [5096, 64], got [64, 5096]",
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda lists: lists["names"].pop(), ["expected lists for 33 tensors"]),
        (lambda lists: lists["ranks"].pop(), ["expected lists for 33 tensors"]),
        (lambda lists: lists["shapes"].append(1), ["expected lists for 33 tensors"]),
        (lambda lists: lists.update(ranks=[-1, *lists["ranks"][1:]]), ["expected lists for"]),
        (lambda lists: lists.update(names=["a"] * 33), ["expected lists for 33 tensors"]),
        (lambda lists: lists.update(names=[1] * 33), ["expected lists for 33 tensors"]),
        (
            lambda lists: lists.update(shapes=[2 * lists["shapes"][0], *lists["shapes"][1:]]),
            ["audio_tower.embedder.conv1.weight: audiocpp.tensor_shapes has [128, 128, 3], the "],
        ),
        (
            lambda lists: lists.update(shapes=[0, *lists["shapes"][1:]]),
            ["audiocpp.tensor_shapes has [0, 128, 3], the tensor is F16 [64, 128, 3]"],
        ),
        (
            lambda lists: turn(lists, "language_model.model.layers.0.self_attn.k_proj.weight"),
            ["k_proj.weight: audiocpp.tensor_shapes has [64, 32], the tensor is Q8_0 [32, 64]"],
        ),
    ],
)
def test_lists_beside_the_tensors_that_do_not_fit(change, parts, audio_cpp, tensors, refuse):
    shapes = [value.shape for value in tensors.values()]
    lists = {
        "names": [schemes.hf_name(name) for name in tensors],
        "ranks": [len(shape) for shape in shapes],
        "shapes": [size for shape in shapes for size in shape],
    }
    assert len(shapes) == 33
    change(lists)
    refuse(audio_cpp(lists=lists), *parts)


def turn(lists, name):
    at = sum(lists["ranks"][: lists["names"].index(name)])
    lists["shapes"][at : at + 2] = lists["shapes"][at : at + 2][::-1]


@pytest.mark.parametrize(
    "lists",
    [
        {"names": ["tekken.json"]},
        {"names": ["tekken.json"], "offsets": [0, 2], "data": [1]},
        {"names": ["tekken.json"], "offsets": [1, 0], "data": [1]},
        {"names": ["tekken.json"], "offsets": [0], "data": [1]},
        {"names": ["tekken.json", "config.json"], "offsets": [0, 1], "data": [1]},
        {"names": [1], "offsets": [0, 1], "data": [1]},
        {"names": ["tekken.json"], "offsets": ["0", "1"], "data": [1]},
        {"names": ["tekken.json"], "offsets": [0.0, 1.0], "data": [1]},
        {"names": ["tekken.json", "config.json"], "contents": ["{}"]},
    ],
)
def test_lists_of_files_that_do_not_fit(lists, tensors, tmp_path):
    contents = {schemes.hf_name(name): (value, "F32") for name, value in tensors.items()}
    keys = {f"audiocpp.embedded_files.{part}": values for part, values in lists.items()}
    path = ggufs.write(tmp_path / MODEL, contents, **keys)
    with pytest.raises(CheckpointError, match=r"audiocpp\.embedded_files\.\*: expected names"):
        open_checkpoint(path, TINY / "tekken.json")


def test_files_inside_as_texts(tensors, tmp_path):
    """The way of audio.cpp's first files."""
    files = converters.audio_cpp_files(CONFIG, TOKENIZER)
    keys = {
        "audiocpp.embedded_files.names": list(files),
        "audiocpp.embedded_files.contents": [content.decode() for content in files.values()],
    }
    contents = {schemes.hf_name(name): (value, "F32") for name, value in tensors.items()}
    checkpoint = open_checkpoint(ggufs.write(tmp_path / MODEL, contents, **keys))
    assert (checkpoint.config, checkpoint.tokenizer) == (CONFIG, TOKENIZER)


def test_a_file_of_crispasr_says_its_hyperparameters(tensors, tmp_path, refuse):
    path = tmp_path / MODEL
    converters.write_crispasr(path, CONFIG, tensors, TOKENIZER, "Q4_0")
    checkpoint = open_checkpoint(path, TINY / "tekken.json")
    assert (checkpoint.layout, checkpoint.config) == ("CrispASR", CONFIG)
    for name in ("language_model.layers.0.self_attn.k_proj.weight", names.DELAY_NETWORK):
        kind = "F32" if "ada_rms_norm" in name else "Q4_0"
        assert np.array_equal(checkpoint.tensors[name].rows(), stored(tensors, name, kind))
    refuse(path, "too little about its tokenizer", "--tokenizer tekken.json")


def test_hyperparameters_that_crispasr_leaves_out_are_the_released_models(tensors, tmp_path):
    contents = {schemes.crispasr_name(name): (value, "F32") for name, value in tensors.items()}
    path = ggufs.write(tmp_path / MODEL, contents, **{"voxtral4b.llm.sliding_window": 4096})
    decoder = replace(RELEASED.decoder, sliding_window=4096)
    assert read_gguf_model(path, [path]).config == replace(RELEASED, decoder=decoder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("llm.n_layers", 0), ("llm.n_layers", "many"), ("proj.frame_stack", "4"), ("hop_length", 0)],
)
def test_hyperparameters_of_crispasr_that_are_none(key, value, tensors, tmp_path, refuse):
    contents = {schemes.crispasr_name(name): (value, "F32") for name, value in tensors.items()}
    path = ggufs.write(tmp_path / MODEL, contents, **{f"voxtral4b.{key}": value})
    refuse(path, "voxtral4b.*: not the hyperparameters")


def test_hyperparameters_as_json_come_first(audio_cpp, tensors, tmp_path):
    config = replace(CONFIG, decoder=replace(CONFIG.decoder, sliding_window=99))
    contents = {schemes.hf_name(name): (value, "F32") for name, value in tensors.items()}
    keys = {"voxtral_onnx.config": json.dumps(config.to_dict()), "voxtral4b.llm.n_layers": 7}
    path = ggufs.write(tmp_path / MODEL, contents, **keys)
    assert open_checkpoint(path, TINY / "tekken.json").config == config


def test_other_models_are_refused_with_what_they_are(audio_cpp, tmp_path, refuse):
    """llama.cpp's names of a text model are CrispASR's, so far as they go."""
    tensors = {"token_embd.weight": np.ones((8, 32)), "blk.0.attn_q.weight": np.ones((8, 32))}
    ggufs.write_model(tmp_path / "text.gguf", None, tensors, "F16")
    refuse(
        tmp_path / "text.gguf",
        "not a GGUF of Voxtral Realtime (general.architecture 'voxtral')",
        "mistral: layers.0.ada_rms_norm_t_cond.0.weight; voxtral.cpp: dec.blk.0.ada0.weight; "
        "transcribe.cpp: dec.blocks.0.ada.linear_1.weight; audio.cpp: language_model.model.layers."
        "0.ada_rms_norm.linear1.weight; CrispASR: blk.0.ada_norm_down.weight",
        "found blk.0.attn_q.weight, token_embd.weight",
        "voxtral-onnx export mistralai/Voxtral-Mini-4B-Realtime-2602",
    )
    other = {"model.layers.0.mlp.up_proj.weight": np.ones((8, 32))}
    path = tmp_path / "qwen.gguf"
    converters.write_audio_cpp(path, other, {"config.json": b"{}"}, "Q8_0", family="qwen3_asr")
    refuse(path, "general.architecture 'audiocpp', audiocpp.model_spec.family 'qwen3_asr'")


def test_audio_cpps_hyperparameters_of_the_released_model():
    """Hugging Face's way to say them is as good as Mistral's."""
    assert VoxtralConfig.from_hf(*converters.hf_configs(RELEASED)) == RELEASED
