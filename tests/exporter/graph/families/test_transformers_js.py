"""The family transformers_js on onnxruntime's CPU.

Graphs against their modules, tokens against the runtime's.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from reference import toy
from reference.eager import empty_caches
from reference.transformers_js import FAMILY, SURE, generate, some_clips
from support.checker import refused_operators
from support.parity import assert_parity
from transformers import VoxtralRealtimeConfig, VoxtralRealtimeFeatureExtractor

from voxtral_onnx import Transcriber, export
from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.errors import ArtifactError, CheckpointError
from voxtral_onnx.exporter.checkpoint.external_data import read_locations
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.graph.families.transformers_js import audio_encoder_plan, decoder_plan
from voxtral_onnx.exporter.model.parameters import PartFactory, rotation_part
from voxtral_onnx.exporter.model.streamed import Rotation
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.quant.recipe import FLOAT
from voxtral_onnx.verification.layerwise import fill

ATOL = 1e-4  # float32 rounding on values up to 20, as for the native graphs
ROTATION_ATOL = 5e-7  # three float32 factors and their sums


@pytest.fixture(scope="module")
def toy_family(toy_artifact, toy_checkpoint, tmp_path_factory):
    """The toy artifact, and its family added afterwards."""
    folder = shutil.copytree(toy_artifact, tmp_path_factory.mktemp("family") / "toy")
    return export(toy_checkpoint, folder, precisions=("fp32",), families=(FAMILY,))


@pytest.fixture(scope="module")
def both(toy_family, toy_checkpoint):
    """Sessions and modules of encoder and decoder."""
    checkpoint = open_checkpoint(toy_checkpoint)
    config, build = checkpoint.config, PartFactory("float32", FLOAT)
    encoder, _, decoder = Manifest.read(toy_family).family("fp32", FAMILY)
    plans = (
        audio_encoder_plan(config, build, ""),
        decoder_plan(config, build, ""),
    )
    modules = [plan.module().eval() for plan in plans]
    for module, plan in zip(modules, plans, strict=True):
        fill(module, plan.parts, checkpoint)
    return (
        checkpoint.config,
        modules,
        [open_session(toy_family, graph.path) for graph in (encoder, decoder)],
    )


def open_session(folder, path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(folder / path, options)


def run_both(session, module, feeds):
    with torch.no_grad():
        wanted = module(*feeds.values())
    outputs = [output.name for output in session.get_outputs()]
    got = session.run(None, {name: value.numpy() for name, value in feeds.items()})
    for name, actual, expected in zip(outputs, got, wanted, strict=True):
        assert_parity(actual, expected.numpy(), atol=ATOL, what=name)
    return dict(zip(outputs, wanted, strict=True))


def named_caches(caches):
    return {
        f"past_key_values.{i // 2}.{'value' if i % 2 else 'key'}": cache
        for i, cache in enumerate(caches)
    }


@pytest.mark.parametrize("start", [0, 10_000_000])
def test_encoder_graph_equals_module(both, start):
    config, (module, _), (session, _) = both
    stack, rng = config.encoder, np.random.default_rng(start)
    padding, caches, rows = torch.zeros(1, 128 + stack.hidden_size, 2), empty_caches(stack, 0), 0
    for chunk in (39, 1, 1, 5, 1):
        feeds = {
            "input_features": torch.from_numpy(
                rng.standard_normal((1, 128, 8 * chunk), dtype=np.float32)
            ),
            "attention_mask": torch.ones(1, rows + 4 * chunk, dtype=torch.int64),
            "position_ids": start + torch.arange(rows, rows + 4 * chunk)[None],
            "past_padding_cache": padding,
            **named_caches(caches),
        }
        past = caches[0].shape[2]
        out = run_both(session, module, feeds)
        caches = [value for name, value in out.items() if name.startswith("present.")]
        padding, rows = out["present_padding_cache"], rows + 4 * chunk
        assert caches[0].shape[2] == min(past, stack.sliding_window - 1) + 4 * chunk


@pytest.mark.parametrize("start", [0, 10_000_000])
def test_decoder_graph_equals_module(both, start):
    config, (_, module), (_, session) = both
    stack = config.decoder
    rng = np.random.default_rng(start)
    caches = empty_caches(config.decoder, 0)
    rows = 0
    for seq, delay in ((39, 6), (1, 6), (3, 1), (1, 30), (30, 6), (1, 6)):
        feeds = {
            "inputs_embeds": torch.from_numpy(
                rng.standard_normal((1, seq, stack.hidden_size), dtype=np.float32)
            ),
            "attention_mask": torch.ones(1, start + rows + seq, dtype=torch.int64),
            "num_delay_tokens": torch.tensor([delay]),
            **named_caches(caches),
        }
        out = run_both(session, module, feeds)
        caches = [value for name, value in out.items() if name.startswith("present.")]
        rows = rows + seq
        if delay == 6:  # is what a host gets that does not feed it
            del feeds["num_delay_tokens"]
            (alone,) = session.run(
                ["logits"], {name: value.numpy() for name, value in feeds.items()}
            )
            assert_parity(alone, out["logits"].numpy(), atol=ATOL, what="logits by default")


@pytest.mark.parametrize("position", [0, 255, 256, 65_535, 65_536, 1_234_567, 2**24 - 1])
def test_rotation_is_that_of_the_position(position):
    stack = toy.toy_config().decoder
    part = rotation_part(stack)
    module = Rotation(part)
    assert part.constants
    for name, values in part.constants().items():
        getattr(module, name).data = torch.from_numpy(values)
    angles = position * stack.rope_theta ** (-np.arange(0, stack.head_dim, 2) / stack.head_dim)
    for got, expected in zip(
        module(torch.tensor([[position]])), (np.cos(angles), np.sin(angles)), strict=True
    ):
        assert_parity(
            got[0, 0].numpy(), expected.astype(np.float32), atol=ROTATION_ATOL, what=str(position)
        )


@pytest.mark.parametrize("delay", [6, 1, 30])
def test_tokens_are_the_runtimes_whatever_the_delay(toy_family, delay):
    samples = toy.babble(9.0, seed=delay)
    with Transcriber(toy_family, delay_ms=80 * delay, precision="fp32") as transcriber:
        expected = transcriber.transcribe(samples).token_ids
    got = generate(toy_family, "fp32", samples, delay)
    assert got.ids == list(expected)
    assert got.rows == (22 - 1 + 4, 26 - 1 + 1)


def test_tokens_are_the_runtimes_on_speech(transformers_js_artifact):
    sure, total, rows = 0, 0, set()
    with Transcriber(transformers_js_artifact, precision="q4") as transcriber:
        for name, samples in some_clips().items():
            expected = list(transcriber.transcribe(samples).token_ids)
            got = generate(transformers_js_artifact, "q4", samples, history=expected)
            rows.add(got.rows)
            for i, (a, b, margin) in enumerate(zip(expected, got.ids, got.margins, strict=True)):
                assert a == b or margin < SURE, (
                    f"{name}: token {i}: expected {a}, got {b} with a lead of {margin:.3f}"
                )
                sure, total = sure + (margin >= SURE), total + 1
    print(f"{sure} of {total} tokens have a lead of {SURE} and are equal")
    assert (150 - 1 + 4, 128) in rows  # both windows rolled
    assert sure > 0.99 * total


def test_weights_are_those_of_the_native_graphs(transformers_js_artifact):
    family = transformers_js_artifact
    manifest = Manifest.read(family)
    precision = manifest.precisions["q4"]
    encoder, embedding, decoder = manifest.family("q4", FAMILY)
    for graph, native in ((encoder, precision.encoder), (decoder, precision.decoder)):
        own, shared = read_locations(family, graph.path), read_locations(family, native.path)
        assert own.items() <= shared.items() and len(own) > 90
        assert graph.data == native.data
        assert (family / graph.path).stat().st_size < 1_000_000
    table = (family / embedding.data[0]).read_bytes()
    assert table == (family / precision.decoder.data[-1]).read_bytes()
    written = {graph.path for graph in (encoder, embedding, decoder)} | {*embedding.data}
    assert manifest.files.keys() - manifest.files_of(["q4"]).keys() == written | ROOT


ROOT = {
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
}
ROOT |= {"tokenizer.json", "tokenizer_config.json"}


def test_the_checker_refuses_one_node_of_two_graphs(transformers_js_artifact):
    graphs = Manifest.read(transformers_js_artifact).family("q4", FAMILY)
    refused = [refused_operators(transformers_js_artifact / graph.path) for graph in graphs]
    assert refused == [{"SimplifiedLayerNormalization": 1}, {}, {"SimplifiedLayerNormalization": 1}]


def test_configurations_are_the_models(transformers_js_artifact):
    family = transformers_js_artifact
    values = {name: json.loads((family / name).read_text()) for name in ROOT}
    config = Manifest.read(family).config
    assert VoxtralConfig.from_hf(values["config.json"], values["processor_config.json"]) == config
    theirs = VoxtralRealtimeConfig(**values["config.json"]).to_dict()
    assert (theirs["text_config"]["sliding_window"], theirs["audio_config"]["sliding_window"]) == (
        128,
        150,
    )
    extractor = VoxtralRealtimeFeatureExtractor(**values["preprocessor_config.json"])
    assert (extractor.hop_length, extractor.feature_size, extractor.global_log_mel_max) == (
        160,
        128,
        1.5,
    )
    js = values["config.json"]["transformers.js_config"]
    assert js["dtype"] == "q4"
    assert js["use_external_data_format"] == {
        "audio_encoder_q4.onnx": 1, "embed_tokens_q4.onnx": 1, "decoder_model_merged_q4.onnx": 2
    }  # fmt: skip
    assert values["generation_config.json"] == {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11, "max_length": None
    }  # fmt: skip


def test_processor_that_would_not_fit(toy_checkpoint, tmp_path):
    checkpoint = shutil.copytree(toy_checkpoint, tmp_path / "checkpoint")
    values = json.loads((checkpoint / "tekken.json").read_text())
    values["audio"]["streaming_n_left_pad_tokens"] = 31
    (checkpoint / "tekken.json").write_text(json.dumps(values))
    message = (
        "tokens of silence before the audio: transformers.js needs 32, this checkpoint has 31; "
        "export with --family native"
    )
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, tmp_path / "out", precisions=("fp32",), families=(FAMILY,))
    assert not (tmp_path / "out").exists()


def test_artifact_without_the_family(toy_artifact):
    with pytest.raises(
        ArtifactError,
        match=r"add them: .* --precision q4 --family "
        r"native,transformers_js",
    ):
        Manifest.read(toy_artifact).family("q4", FAMILY)
