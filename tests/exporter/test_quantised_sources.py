"""Artifacts from checkpoints that others have quantised: what is kept, and that they transcribe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support import quantised
from support.checkpoints import hf_configs
from support.commands import CLIP, TEXT
from support.ggufs import half_split

from voxtral_onnx import export
from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.binding.source_report import FILE_NAME
from voxtral_onnx.exporter.checkpoint import names, schemes
from voxtral_onnx.exporter.checkpoint.external_data import read_initializers
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.manifest import Manifest

CONFIG = VoxtralConfig.from_params(quantised.tiny_params())
HF_CONFIG, PROCESSOR = hf_configs(CONFIG)


@dataclass
class Source:
    """A checkpoint, the precision to export it in, and what its tools say that it holds."""

    folder: Path
    precision: str
    summary: str
    # By stored name: codes from 0 up, scales; only of the blocks that are kept
    blocks: dict[str, tuple[np.ndarray, np.ndarray]]
    out: Path | None = None


def w4a16_mistral(folder: Path) -> Source:
    """Only the decoder is packed, as in pavanperi's GPTQ; the rest stays in bfloat16."""
    tensors, blocks = quantised.packed(quantised.tiny_tensors(), quantised.in_decoder, size=32)
    params = {**quantised.tiny_params(), "quantization": quantised.packed_config(4, 32)}
    quantised.write(folder, tensors, "consolidated.safetensors", params=params)
    summary = "bit-equal: 28 W4A16; requantised: 45 BF16; as floats: 50 BF16; in the delay gains: 8"
    return Source(folder, "q4f16", summary, blocks)


def w4a16_hf(folder: Path) -> Source:
    tensors, blocks = quantised.packed(quantised.hf_tensors(), quantised.is_linear, size=64)
    config = {**HF_CONFIG, "quantization_config": quantised.packed_config(4, 64)}
    quantised.write(folder, tensors, config=config, processor_config=PROCESSOR)
    return Source(folder, "q4f16", "bit-equal: 70 W4A16; requantised: 3 BF16", blocks)


def w8a16(folder: Path) -> Source:
    packed = quantised.packed(quantised.tiny_tensors(), quantised.is_linear, bits=8, size=128)
    params = {**quantised.tiny_params(), "quantization": quantised.packed_config(8, 128)}
    quantised.write(folder, packed[0], "consolidated.safetensors", params=params)
    return Source(folder, "q8", "bit-equal: 70 W8A16; requantised: 3 BF16", packed[1])


def fp8(folder: Path) -> Source:
    config = {**HF_CONFIG, "quantization_config": quantised.float8_config()}
    tensors = quantised.float8(quantised.hf_tensors())
    quantised.write(folder, tensors, config=config, processor_config=PROCESSOR)
    return Source(folder, "q4f16", "requantised: 3 BF16, 70 F8_E4M3", {})


def mlx_audio(folder: Path) -> Source:
    """As mlx-community's -4bit: neither the table nor the adapter is quantised."""
    tensors, _ = quantised.affine(
        quantised.mlx_tensors(quantised.mlx_audio_name),
        lambda name: (
            (".attention.w" in name and name.endswith("weight"))
            or ("feed_forward" in name and name.endswith("weight"))
        ),
        bits=4,
        size=64,
    )
    quantised.write(folder, tensors, config=quantised.mlx_audio_config(bits=4, group_size=64))
    return Source(folder, "q4f16", "requantised: 3 BF16, 70 MLX 4-bit", {})


SUMMARY_OF_VOXMLX = (
    "requantised: 73 MLX 6-bit; as floats: 50 BF16; in the delay gains: 4 BF16, 4 MLX 6-bit"
)


def voxmlx(folder: Path) -> Source:
    """As voxmlx's own 6-bit: every matrix that divides into groups, the table included."""
    tensors, _ = quantised.affine(
        quantised.mlx_tensors(quantised.voxmlx_name),
        lambda name: (
            name.endswith(".weight")
            and any(part in name for part in ("_proj.", "adapter.", "embed_tokens.", "linear_in."))
        ),
        bits=6,
        size=64,
    )
    config = quantised.voxmlx_config(bits=6, group_size=64)
    quantised.write(folder, tensors, "weights.safetensors", config=config)
    return Source(folder, "q8", SUMMARY_OF_VOXMLX, {})


@pytest.fixture(
    scope="module",
    params=[w4a16_mistral, w4a16_hf, w8a16, fp8, mlx_audio, voxmlx],
    ids=lambda make: make.__name__,
)
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.__name__)
    made = request.param(folder / "checkpoint")
    made.out = export(made.folder, folder / "out", precisions=(made.precision,))
    return made


def test_it_transcribes_and_keeps_what_it_can(source, run):
    """The blocks are compared with the codes and scales that were written, not with our reading."""
    result = run("transcribe", "-m", source.out, "--precision", source.precision, CLIP)
    assert result.code == 0 and result.out.strip() == TEXT

    report = json.loads((source.out / FILE_NAME).read_text())
    assert report["precisions"][source.precision]["summary"].startswith(source.summary)

    kind = Manifest.read(source.out).precisions[source.precision]
    held = read_initializers(source.out, kind.encoder) | read_initializers(source.out, kind.decoder)
    is_mistral = (source.folder / "params.json").exists()
    rename = schemes.mistral_name if is_mistral else schemes.hf_name
    count = 0
    for name in names.tensor_shapes(CONFIG):
        if rename(name) not in source.blocks:
            continue
        codes, scales = (
            half_split(part, name, CONFIG) if is_mistral else part
            for part in source.blocks[rename(name)]
        )
        stored = held[name].stored_rows().reshape(codes.shape[0], -1)
        if source.precision != "q8":  # two codes a byte, the even one low
            stored = np.stack((stored & 15, stored >> 4), -1).reshape(codes.shape)
        assert np.array_equal(stored, codes), name
        found = held[name.removesuffix("weight") + "scales"].rows()
        assert np.array_equal(found, scales), name
        count += 1
    assert count == len(source.blocks)


def test_what_costs_accuracy_is_said(tmp_path, run):
    """`--dry-run` says it as well as `export`, which the notes of a checkpoint go through."""
    result = run("export", mlx_audio(tmp_path / "mlx").folder, "--dry-run")
    assert result.code == 0 and "70 of the 131 tensors are MLX 4-bit" in result.out
    assert "rounds a second time" in result.out
    result = run("export", w4a16_mistral(tmp_path / "w4a16").folder, "--dry-run")
    assert "GPTQ" in result.out and "voxtral-onnx verify" in result.out


def test_floats_of_mlx_are_the_checkpoint_itself(tmp_path):
    """Their names and the order of a convolution's axes are all that differs."""
    of_tiny = open_checkpoint(quantised.TINY)
    for name, rename, config in (
        ("mlx-audio", quantised.mlx_audio_name, quantised.mlx_audio_config()),
        ("voxmlx", quantised.voxmlx_name, quantised.voxmlx_config()),
    ):
        folder = quantised.write(tmp_path / name, quantised.mlx_tensors(rename), config=config)
        checkpoint = open_checkpoint(folder)
        assert checkpoint.layout == name and checkpoint.notes == ()
        assert checkpoint.config == of_tiny.config
        assert checkpoint.fingerprint() == of_tiny.fingerprint()
        for part, tensor in of_tiny.tensors.items():
            assert np.array_equal(checkpoint.tensors[part].rows(), tensor.rows()), part


def test_what_the_converter_of_mlx_audio_writes(tmp_path):
    """Its config, but Mistral's names and convolutions."""
    folder = tmp_path / "mlx"
    quantised.write(folder, quantised.tiny_tensors(), config=quantised.mlx_audio_config())
    assert open_checkpoint(folder).fingerprint() == open_checkpoint(quantised.TINY).fingerprint()
