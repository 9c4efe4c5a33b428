"""A good checkpoint opens, and a damaged one is refused by what is wrong with it."""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import TINY, small_tensors, write_hf, write_mistral

from voxtral_onnx.errors import CheckpointError
from voxtral_onnx.exporter.checkpoint import names, schemes
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint

WEIGHTS = "consolidated.safetensors"
INDEX = "model.safetensors.index.json"
NOT_TIED = {"tie_word_embeddings": False}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 8900000000\n"
EMBEDDING = schemes.mistral_name(names.EMBEDDING)


@pytest.fixture
def mistral(tmp_path):
    return write_mistral(tmp_path / "checkpoint")


@pytest.fixture
def hf(tmp_path):
    return write_hf(tmp_path / "checkpoint")


def edit_json(path, change):
    values = json.loads(path.read_text())
    changed = change(values)
    path.write_text(json.dumps(values if changed is None else changed))


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_good_folders_open(mistral, tmp_path):
    assert open_checkpoint(mistral).layout == "mistral"
    assert open_checkpoint(write_hf(tmp_path / "hf")).layout == "huggingface"


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda path: None, ["expected a checkpoint folder or a GGUF, found nothing"]),
        (
            lambda path: path.write_text("x"),
            ["expected a checkpoint folder or a GGUF, found a file"],
        ),
        (
            lambda path: path.mkdir(),
            ["params.json (Mistral's layout)", "config.json (Hugging Face's)", "none of them"],
        ),
    ],
    ids=["nothing", "file", "empty-folder"],
)
def test_not_a_checkpoint(make, parts, tmp_path, refuse):
    make(tmp_path / "source")
    refuse(tmp_path / "source", str(tmp_path / "source"), *parts)


@pytest.mark.parametrize("name", [WEIGHTS, "tekken.json"])
def test_missing_file(name, mistral, refuse):
    (mistral / name).unlink()
    refuse(mistral, str(mistral / name))


@pytest.mark.parametrize(
    "name", ["processor_config.json", "model-00002-of-00002.safetensors", "tekken.json"]
)
def test_missing_file_of_hf_layout(name, hf, refuse):
    (hf / name).unlink()
    refuse(hf, str(hf / name))


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (0, ["header too small", "download it again"]),
        (7, ["header too small", "download it again"]),
        (100, ["invalid header length", "download it again"]),
        (-1, ["file not fully covered", "download it again"]),
    ],
    ids=["empty", "size-cut", "header-cut", "data-cut"],
)
def test_truncated_safetensors(size, parts, mistral, refuse):
    content = (mistral / WEIGHTS).read_bytes()
    (mistral / WEIGHTS).write_bytes(content[:size])
    refuse(mistral, WEIGHTS, *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"\xff" * 64, ["its header would have 18,446,744,073,709,551,615 bytes"]),
        (safetensors_bytes(b"{not json"), ["not a readable safetensors file"]),
        (safetensors_bytes(b"\xff\xfe{}"), ["not a readable safetensors file"]),
        (safetensors_bytes([]), ["not a readable safetensors file"]),
        (safetensors_bytes({"a": 3}), ["not a readable safetensors file"]),
        (
            safetensors_bytes({"a": {"dtype": "F32", "shape": [1]}}),
            ["not a readable safetensors file"],
        ),
        (
            safetensors_bytes({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}),
            ["not a readable safetensors file"],
        ),
        (
            safetensors_bytes({"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}),
            ["not a readable safetensors file"],
        ),
        (
            safetensors_bytes({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}),
            ["not a readable safetensors file"],
        ),
        (
            safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]}}),
            ["not a readable safetensors file"],
        ),
        (
            safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}}),
            ["not a readable safetensors file"],
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)
            ),
            ["invalid shape, data type, or offset"],
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)
            ),
            ["BF16, F16 or F32, got F64"],
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)
            ),
            ["BF16, F16 or F32, got I8"],
        ),
    ],
)
def test_corrupt_safetensors_header(content, parts, mistral, refuse):
    (mistral / WEIGHTS).write_bytes(content)
    refuse(mistral, WEIGHTS, *parts)


def test_f64_tensor_is_named(mistral, refuse):
    tensors = load_file(mistral / WEIGHTS)
    tensors[EMBEDDING] = tensors[EMBEDDING].astype(np.float64)
    save_file(tensors, mistral / WEIGHTS)
    refuse(mistral, EMBEDDING, "expected BF16, F16 or F32, got F64")


def encoder_args(params):
    return params["multimodal"]["whisper_model_args"]["encoder_args"]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda p: p.pop("dim") and None, ["missing required field `dim`"]),
        (
            lambda p: encoder_args(p).pop("sliding_window") and None,
            ["encoder_args", "missing required field `sliding_window`"],
        ),
        (
            lambda p: p.pop("multimodal") and None,
            ["missing required field `multimodal`", "not a Voxtral Realtime model"],
        ),
        (lambda p: p.update(moe={"experts": 8}), ["unknown field `moe`", "another version"]),
        (lambda p: encoder_args(p).update(pooling=2), ["encoder_args", "unknown field `pooling`"]),
        (lambda p: p.update(dim="64"), ["Expected `int`, got `str` - at `$.dim`"]),
        (lambda p: p.update(n_layers=0), ["Expected `int` >= 1 - at `$.n_layers`"]),
        (lambda p: p.update(norm_eps=-1), ["Expected `float` > 0", "`$.norm_eps`"]),
        (
            lambda p: p.update(rope_theta=float("nan")),
            ["not valid JSON"],
        ),
        (
            lambda p: p.update(tied_embeddings=False),
            ["'tied_embeddings'", "expected True, got False"],
        ),
        (lambda p: p.update(head_dim=31), ["head_dim 31 is odd"]),
        (lambda p: p.update(n_layers=10**9), ["Expected `int` <= 1024 - at `$.n_layers`"]),
        (
            lambda p: encoder_args(p)["audio_encoding_args"].update(sampling_rate=1),
            ["Expected `int` >= 1000", "sampling_rate"],
        ),
        (
            lambda p: encoder_args(p).update(pos_embed="sinusoidal"),
            ["'sinusoidal' - at", "encoder_args.pos_embed"],
        ),
        (
            lambda p: encoder_args(p).update(n_kv_heads=3),
            ["2 query heads cannot share 3 key-value heads"],
        ),
        (
            lambda p: p["multimodal"].update(whisper_model_args=[]),
            ["whisper_model_args", "Expected `object`, got `array`"],
        ),
        (
            lambda p: encoder_args(p)["audio_encoding_args"].update(frame_rate=12.4),
            ["mel frames a token"],
        ),
        (lambda p: ["a list"], ["params.json", "Expected `object`, got `array`"]),
    ],
)
def test_wrong_params(change, parts, mistral, refuse):
    edit_json(mistral / "params.json", change)
    refuse(mistral, "params.json" if "head" not in parts[0] else "", *parts)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_params_that_are_not_json(content, mistral, refuse):
    (mistral / "params.json").write_bytes(content)
    refuse(mistral, str(mistral / "params.json"), "not valid JSON")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda c: c.update(model_type="voxtral"),
            ["'voxtral' - at `$.model_type`", "not a Voxtral Realtime model"],
        ),
        (
            lambda c: c["text_config"].pop("head_dim") and None,
            ["text_config", "missing required field `head_dim`"],
        ),
        (
            lambda c: c["text_config"].update(tie_word_embeddings=False),
            ["'tie_word_embeddings'", "got False"],
        ),
        (
            lambda c: c["text_config"].pop("tie_word_embeddings") and c.update(NOT_TIED),
            ["'tie_word_embeddings'", "got False"],
        ),
        (
            lambda c: c["audio_config"].update(rope_theta=5e5),
            ["'rope_theta'", "expected 1000000.0, got 500000.0"],
        ),
        (
            lambda c: c["text_config"].pop("rope_parameters") and None,
            ["expected `rope_parameters` or `rope_theta`, got neither", "$.text_config"],
        ),
        (lambda c: [], ["config.json", "Expected `object`, got `array`"]),
    ],
)
def test_wrong_hf_config(change, parts, hf, refuse):
    edit_json(hf / "config.json", change)
    refuse(hf, *parts)


def earlier_rope(config):
    for stack in (config["audio_config"], config["text_config"]):
        stack["rope_theta"] = stack.pop("rope_parameters")["rope_theta"]


@pytest.mark.parametrize(
    "change",
    [
        earlier_rope,
        lambda c: c.update(tie_word_embeddings=c["text_config"].pop("tie_word_embeddings")),
        lambda c: c["text_config"].pop("tie_word_embeddings") and None,
        lambda c: c["text_config"].update(head_dim=c["text_config"]["head_dim"], rope_theta=None),
    ],
)
def test_configs_of_other_versions_of_transformers(change, hf):
    expected = open_checkpoint(hf).config
    edit_json(hf / "config.json", change)
    assert open_checkpoint(hf).config == expected


@pytest.mark.parametrize("name", [WEIGHTS, "tekken.json"])
def test_clone_without_git_lfs(name, mistral, refuse):
    (mistral / name).write_text(POINTER)
    refuse(mistral, f"{name}: expected the file itself, got a Git LFS pointer", "git lfs pull")


def test_gguf_cloned_without_git_lfs(mistral, refuse):
    (mistral / "params.json").unlink()
    (mistral / WEIGHTS).unlink()
    (mistral / "model.gguf").write_text(POINTER)
    refuse(mistral, "model.gguf: expected the file itself, got a Git LFS pointer")


def special(name):
    return lambda t: t.update(
        special_tokens=[e for e in t["special_tokens"] if e["token_str"] != name]
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            special("[STREAMING_PAD]"),
            ["no special token [STREAMING_PAD]", "take the file that belongs"],
        ),
        (special("[STREAMING_WORD]"), ["no special token [STREAMING_WORD]"]),
        (lambda t: t.pop("audio") and None, ["no section 'audio'", "take the file that belongs"]),
        (
            lambda t: t["config"].update(default_vocab_size=4000),
            ["vocabulary: expected 5096", "got 4000"],
        ),
        (
            lambda t: t["audio"].update(sampling_rate=24000),
            ["sampling rate: expected 16000", "got 24000"],
        ),
        (
            lambda t: t["audio"].update(transcription_delay_ms=100),
            ["multiple of 80 ms", "got 100 ms"],
        ),
        (
            lambda t: t["audio"].update(transcription_delay_ms="480"),
            ["tekken.json", "got `str` - at `$.audio.transcription_delay_ms`"],
        ),
        (
            lambda t: t.update(vocab=t["vocab"][:10]),
            ["1000 special and 10 text tokens do not make 5096"],
        ),
        (
            lambda t: t["special_tokens"][1].update(rank="1"),
            ["tekken.json", "expected a Tekken tokenizer"],
        ),
        (lambda t: ["a list"], ["tekken.json", "expected a Tekken tokenizer"]),
    ],
)
def test_wrong_tokenizer(change, parts, mistral, refuse):
    edit_json(mistral / "tekken.json", change)
    refuse(mistral, *parts)


def test_tokenizer_that_is_not_json(mistral, refuse):
    (mistral / "tekken.json").write_bytes(b"\x80 no")
    refuse(mistral, "tekken.json", "expected a Tekken tokenizer")


def test_all_wrong_tensors_are_listed_by_name(mistral, refuse):
    tensors = load_file(mistral / WEIGHTS)
    del tensors["layers.0.attention.wq.weight"], tensors["norm.weight"]
    tensors["layers.0.attention.wk.bias"] = np.zeros(32, np.float16)
    tensors["output.weight"] = np.zeros((5096, 64), np.float16)
    tensors["layers.0.feed_forward.w2.weight"] = np.zeros((64, 65), np.float16)
    save_file(tensors, mistral / WEIGHTS)
    refuse(
        mistral,
        "in the mistral layout, got 5 differences",
        "missing layers.0.attention.wq.weight [64, 64]",
        "missing norm.weight [64]",
        "unexpected layers.0.attention.wk.bias [32]",
        "unexpected output.weight [5096, 64]",
        "misshapen layers.0.feed_forward.w2.weight: expected [64, 64], got [64, 65]",
    )


@pytest.mark.parametrize("where", [slice(None), slice(1, None), slice(None, -1)])
def test_a_gap_in_a_download(where, mistral, run, refuse, tmp_path):
    """Only where all of a matrix is missing: single rows may be zeros."""
    tensors = load_file(mistral / WEIGHTS)
    ours = "language_model.layers.0.mlp.up_proj.weight"
    name = schemes.mistral_name(ours)
    tensors[name] = tensors[name].copy()
    tensors[name][where] = 0
    save_file(tensors, mistral / WEIGHTS)
    if where == slice(None):
        refuse(mistral, f"gap {name} ", "only zeros, as where a download was interrupted")
    else:
        assert open_checkpoint(mistral).tensors[ours].rows().any()


def test_many_wrong_tensors_are_counted(mistral, refuse):
    extra = {f"extra.{i}": np.zeros(1, np.float16) for i in range(50)}
    save_file(small_tensors() | extra, mistral / WEIGHTS)
    refuse(mistral, "got 50 differences", "unexpected extra.0 [1]", "… and 30 more")


def test_index_names_a_tensor_that_no_shard_holds(hf, refuse):
    edit_json(
        hf / INDEX,
        lambda index: index["weight_map"].update(
            {"lost.weight": "model-00001-of-00002.safetensors"}
        ),
    )
    refuse(hf, INDEX, "names 1 tensors that its shards lack, such as lost.weight")


def test_index_names_a_shard_that_is_missing(hf, refuse):
    edit_json(
        hf / INDEX,
        lambda index: index["weight_map"].update(
            {"lost.weight": "model-00003-of-00003.safetensors"}
        ),
    )
    refuse(hf, "model-00003-of-00003.safetensors", "missing")


@pytest.mark.parametrize("values", [[], {}, {"weight_map": []}, {"weight_map": {"a": 3}}])
def test_malformed_index(values, hf, refuse):
    (hf / INDEX).write_text(json.dumps(values))
    refuse(hf, INDEX, "'weight_map'")


@pytest.mark.parametrize("differs", [False, True])
def test_repeated_head_must_be_the_embedding(differs, hf, refuse):
    (hf / INDEX).unlink()
    tensors = small_tensors(schemes.HF)
    head = tensors[schemes.hf_name(names.EMBEDDING)].copy()
    head[7, 7] += differs
    save_file(tensors | {"lm_head.weight": head}, hf / "model.safetensors")
    if differs:
        refuse(hf, "lm_head.weight differs from the embedding, but this architecture ties them")
    else:
        assert len(open_checkpoint(hf).tensors) == len(tensors)


@pytest.mark.parametrize("shape", [(), (0,), (0, 64)])
def test_a_repeated_head_of_no_rows(shape, hf, refuse):
    (hf / INDEX).unlink()
    tensors = small_tensors(schemes.HF) | {"lm_head.weight": np.zeros(shape, np.float16)}
    save_file(tensors, hf / "model.safetensors")
    refuse(hf, "lm_head.weight differs from the embedding")


@pytest.mark.parametrize(
    ("card", "parts"),
    [
        (
            {"scope": "x", "author": "y"},
            ["expected the keys scope, trained_delays_ms and license", "unknown field `author`"],
        ),
        ({"trained_delays_ms": [100]}, ["multiple of 80 ms", "got 100 ms"]),
        ({"trained_delays_ms": ["480"]}, ["Expected `int`, got `str`", "trained_delays_ms"]),
        ({"trained_delays_ms": 480}, ["Expected `array`, got `int`", "trained_delays_ms"]),
        ({"scope": 3}, ["Expected `str | null`, got `int` - at `$.scope`"]),
        ({"license": ["mit"]}, ["Expected `str | null`, got `array` - at `$.license`"]),
        ([], ["Expected `object`, got `array`"]),
    ],
)
def test_wrong_card(card, parts, mistral, refuse):
    (mistral / "card.json").write_text(json.dumps(card))
    refuse(mistral, "card.json", *parts)


def test_non_finite_weight_is_a_quantisation_error(mistral, run, tmp_path):
    tensors = load_file(mistral / WEIGHTS)
    name = "audio_tower.layers.0.self_attn.q_proj.weight"
    tensors[schemes.mistral_name(name)][0, 0] = np.nan
    save_file(tensors, mistral / WEIGHTS)
    result = run("export", mistral, "-o", tmp_path / "out")
    result.assert_refused(5, name, "non-finite")
    assert not (tmp_path / "out" / "voxtral_onnx.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert not list((tmp_path / "out").rglob("*encoder*"))


def test_tiny_is_a_good_checkpoint():
    assert len(open_checkpoint(TINY).tensors) == 131


def test_a_tensor_in_two_shards(hf, refuse):
    first, second = sorted(hf.glob("model-*.safetensors"))
    tensors = load_file(first)
    name = next(iter(tensors))
    save_file({**load_file(second), name: -tensors[name]}, second)
    refuse(hf, f"{name}: is in another shard too")


def test_a_norm_of_zeros_is_a_gap(mistral, refuse):
    tensors = load_file(mistral / WEIGHTS)
    tensors["norm.weight"] = np.zeros_like(tensors["norm.weight"])
    save_file(tensors, mistral / WEIGHTS)
    refuse(mistral, "gap norm.weight ", "only zeros")


@pytest.mark.parametrize("name", ["tekken.json", "params.json", WEIGHTS, "a.gguf"])
def test_a_pipe_is_not_waited_for(name, mistral, refuse):
    (mistral / name).unlink(missing_ok=True)
    os.mkfifo(mistral / name)
    refuse(mistral, f"{name}: expected a file, got a pipe")


def test_a_pipe_that_nothing_reads_is_passed_over(mistral):
    os.mkfifo(mistral / "notes.txt")
    assert open_checkpoint(mistral).layout == "mistral"


@pytest.mark.parametrize(
    ("name", "value"), [("norm.weight", np.nan), ("layers.0.ada_rms_norm_t_cond.0.weight", np.inf)]
)
def test_values_that_stay_floats_must_be_finite(name, value, mistral, run, tmp_path):
    tensors = {key: found.astype(np.float32) for key, found in load_file(mistral / WEIGHTS).items()}
    tensors[name].reshape(-1)[-1] = value
    save_file(tensors, mistral / WEIGHTS)
    result = run("export", mistral, "-o", tmp_path / "out", "--precision", "q4")
    result.assert_refused(5, "expected finite values in float32's range, got ")
    assert not (tmp_path / "out" / "voxtral_onnx.json").exists()


def test_values_beyond_float16_are_refused_there(mistral, run, tmp_path):
    tensors = {key: found.astype(np.float32) for key, found in load_file(mistral / WEIGHTS).items()}
    tensors["norm.weight"][0] = 1e6
    save_file(tensors, mistral / WEIGHTS)
    run("export", mistral, "-o", tmp_path / "out", "--precision", "fp16").assert_refused(
        5, "language_model.norm.weight: expected finite values in float16's range, got 1e+06"
    )
    assert run("export", mistral, "-o", tmp_path / "out", "--precision", "fp32").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_folder_that_may_not_be_entered():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = write_mistral(Path(name) / "checkpoint")
        folder.chmod(0)
        is_root = os.getuid() == 0  # to whom nothing is forbidden
        try:
            if is_root:
                os.seteuid(65534)
            with pytest.raises(CheckpointError, match=r"cannot be looked into .Permission denied"):
                open_checkpoint(folder)
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o700)
