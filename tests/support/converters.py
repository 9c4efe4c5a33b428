"""GGUFs as other projects' converters write them, with their keys, names, types and extras.

Sources: audio.cpp's `tensor_source.cpp` (`convert_tensor_sources_to_gguf`), CrispASR's
`convert-voxtral4b-to-gguf.py`, llama.cpp's pull request 20625.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFValueType, GGUFWriter
from gguf.constants import GGMLQuantizationType
from support import ggufs
from support.checkpoints import hf_configs

from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.checkpoint import names, schemes

LONGEST_NAME = 63  # bytes; ggml's GGML_MAX_NAME without the 0 at its end


def our_tensors(folder: Path, config: VoxtralConfig) -> dict[str, np.ndarray]:
    """float32 values of a Mistral checkpoint under our names, with rotary rows in our order."""
    stored = ggufs.mistral_tensors(folder)
    return {
        name: ggufs.half_split(stored[schemes.mistral_name(name)], name, config)
        for name in names.tensor_shapes(config)
    }


def audio_cpp_files(config: VoxtralConfig, tokenizer: bytes) -> dict[str, bytes]:
    """The files that stand beside a checkpoint's weights, and that the converter puts in."""
    top, processor = hf_configs(config)
    return {
        "config.json": json.dumps(top).encode(),
        "generation_config.json": b"{}",
        "processor_config.json": json.dumps(processor).encode(),
        "tekken.json": tokenizer,
    }


def write_audio_cpp(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    files: Mapping[str, bytes],
    kind: str,
    *,
    longest_name: int = LONGEST_NAME,
    family: str = "voxtral_realtime",
    lists: Mapping[str, list] | None = None,
) -> Path:
    """A GGUF of tensors under our names, with Hugging Face's names in it.

    Args:
        path: the file to write.
        tensors: values under our names.
        files: what is put in, by name; none as with `--no-sidecars`.
        kind: the type of matrices. Tables and the convolutions before the encoder, whose names have
            "embed", are F16, all else stays as it is, F32.
        longest_name: bytes; a longer name is stored beside, under `_audiocpp.N`.
        family: of the model.
        lists: other values of the lists of names, ranks and shapes.
    """
    writer = GGUFWriter(path, "audiocpp")
    writer.add_string("audiocpp.tensor_name_format", "native")
    writer.add_string("audiocpp.source_format", ".safetensors")
    writer.add_string("audiocpp.weight_type", kind.lower())
    writer.add_uint32("audiocpp.model_spec.version", 1)
    writer.add_string("audiocpp.model_spec.family", family)
    writer.add_string("audiocpp.model_spec.json", json.dumps({"family": family}))
    writer.add_array("audiocpp.tensor_sources.names", [""])
    writer.add_array("audiocpp.tensor_sources.paths", ["model.safetensors"])
    if files:
        edges = [0, *np.cumsum([len(content) for content in files.values()]).tolist()]
        writer.add_array("audiocpp.embedded_files.names", list(files))
        add_integers(writer, "audiocpp.embedded_files.offsets", edges, GGUFValueType.UINT64)
        writer.add_array("audiocpp.embedded_files.data", b"".join(files.values()))
    held = {schemes.hf_name(name): value.astype(np.float32) for name, value in tensors.items()}
    for number, (name, value) in enumerate(held.items()):
        is_table = "embed" in name
        quantises = name.endswith(".weight") and value.ndim == 2 and not is_table
        type_ = kind if quantises else "F16" if is_table else "F32"
        stored_name = name if len(name) <= longest_name else f"_audiocpp.{number}"
        # ggml counts no axis of one value in front
        shape = value.shape[next((i for i, n in enumerate(value.shape) if n > 1), 0) :]
        content = ggufs.stored(value.reshape(shape), type_)
        writer.add_tensor(stored_name, content, raw_dtype=GGMLQuantizationType[type_])
    shapes = [list(value.shape) for value in held.values()]
    described = {
        "names": list(held),
        "ranks": [len(shape) for shape in shapes],
        "shapes": [size for shape in shapes for size in shape],
    } | dict(lists or {})
    writer.add_array("audiocpp.tensor_names", described["names"])
    ranks, sizes = described["ranks"], described["shapes"]
    add_integers(writer, "audiocpp.tensor_ranks", ranks, GGUFValueType.INT32)
    add_integers(writer, "audiocpp.tensor_shapes", sizes, GGUFValueType.INT64)
    return finish(writer, path)


def write_crispasr(
    path: Path,
    config: VoxtralConfig,
    tensors: Mapping[str, np.ndarray],
    tokenizer: bytes,
    kind: str,
) -> Path:
    """A GGUF of tensors under our names, with CrispASR's names, mel filters and vocabulary in it.

    Matrices are of a kind, but the delay's network and all else are F32.
    """
    audio, encoder, decoder = config.audio, config.encoder, config.decoder
    numbers = {
        "sample_rate": audio.sample_rate,
        "n_mels": audio.n_mels,
        "n_fft": audio.n_fft,
        "win_length": audio.n_fft,
        "hop_length": audio.hop_length,
        "audio.n_layers": encoder.num_hidden_layers,
        "audio.d_model": encoder.hidden_size,
        "audio.n_heads": encoder.num_attention_heads,
        "audio.head_dim": encoder.head_dim,
        "audio.ff_dim": encoder.intermediate_size,
        "audio.max_pos": 1500,
        "audio.rope_theta": encoder.rope_theta,
        "audio.sliding_window": encoder.sliding_window,
        "proj.in_dim": encoder.hidden_size * encoder.downsample_factor,
        "proj.out_dim": decoder.hidden_size,
        "proj.frame_stack": encoder.downsample_factor,
        "llm.n_layers": decoder.num_hidden_layers,
        "llm.d_model": decoder.hidden_size,
        "llm.n_heads": decoder.num_attention_heads,
        "llm.n_kv_heads": decoder.num_key_value_heads,
        "llm.head_dim": decoder.head_dim,
        "llm.ff_dim": decoder.intermediate_size,
        "llm.rope_theta": decoder.rope_theta,
        "llm.rms_norm_eps": decoder.rms_norm_eps,
        "llm.vocab_size": decoder.vocab_size,
        "llm.max_pos": 131072,
        "llm.sliding_window": decoder.sliding_window,
        "llm.ada_norm_dim": decoder.time_embedding_rank,
    }
    writer = GGUFWriter(path, "voxtral4b")
    for key, value in numbers.items():
        is_float = isinstance(value, float)
        kind_of = GGUFValueType.FLOAT32 if is_float else GGUFValueType.UINT32
        writer.add_key_value(f"voxtral4b.{key}", value, kind_of)
    writer.add_bool("voxtral4b.llm.tied_embeddings", True)
    writer.add_uint32("voxtral4b.audio_token_id", 24)

    tekken = json.loads(tokenizer)
    words = [base64.b64decode(entry["token_bytes"]) for entry in tekken["vocab"]]
    blob = b"".join(struct.pack("<H", len(word)) + word for word in words)
    writer.add_string("tokenizer.tekken.pattern", tekken["config"]["pattern"])
    writer.add_array(
        "tokenizer.tekken.specials", [special["token_str"] for special in tekken["special_tokens"]]
    )
    writer.add_uint32("tokenizer.tekken.n_specials", len(tekken["special_tokens"]))
    writer.add_uint32("tokenizer.tekken.n_vocab", len(words))
    extras = {
        "tokenizer.tekken.vocab_tensor": np.frombuffer(blob, np.uint8).astype(np.float32),
        "audio.mel_filters": np.ones((audio.n_fft // 2 + 1, audio.n_mels), np.float32),
        "audio.mel_window": np.hanning(audio.n_fft + 1)[:-1].astype(np.float32),
    }
    held = {schemes.crispasr_name(name): value for name, value in tensors.items()}
    for name, value in (extras | held).items():
        is_rounded = name in held and value.ndim == 2 and "ada_norm" not in name
        type_ = kind if is_rounded else "F32"
        content = ggufs.stored(value.astype(np.float32), type_)
        writer.add_tensor(name, content, raw_dtype=GGMLQuantizationType[type_])
    return finish(writer, path)


def write_llama_cpp(folder: Path) -> tuple[Path, Path]:
    """The two files of a model that llama.cpp has split: decoder and mmproj, as far as names go."""
    decoder = GGUFWriter(folder / "voxtral-realtime-q8_0.gguf", "llama")
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight"):
        decoder.add_tensor(name, np.ones((4, 32), np.float32))
    decoder.add_tensor("blk.0.ffn_ada_norm_up.weight", np.ones(32, np.float32))
    encoder = GGUFWriter(folder / "mmproj-voxtral-realtime-f16.gguf", "clip")
    encoder.add_string("general.type", "mmproj")
    for name in ("a.blk.0.attn_q.weight", "a.conv1d.1.weight", "mm.a.mlp.1.weight"):
        encoder.add_tensor(name, np.ones((4, 32), np.float32))
    return (
        finish(decoder, folder / "voxtral-realtime-q8_0.gguf"),
        finish(encoder, folder / "mmproj-voxtral-realtime-f16.gguf"),
    )


def add_integers(writer: GGUFWriter, key: str, values: list, kind: GGUFValueType) -> None:
    writer.add_key_value(key, values, GGUFValueType.ARRAY, sub_type=kind)


def finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
