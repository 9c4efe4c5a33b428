"""What graph files say of themselves, read as a host reads it."""

from dataclasses import asdict

import onnxruntime
import pytest

from voxtral_onnx.manifest import Manifest


@pytest.fixture(scope="module")
def found(tiny_artifact):
    """Metadata of the graphs of two precisions, by path."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    paths = {
        role: f"onnx/{role}{suffix}.onnx"
        for role, suffix in (("mel", ""), ("encoder", "_q4f16"), ("decoder", "_q4f16"), ("decoder", "_q4"))
    }
    return {
        role: onnxruntime.InferenceSession(tiny_artifact / path, options).get_modelmeta().custom_metadata_map
        for role, path in paths.items()
    }


def test_each_graph_says_what_the_manifest_says(found, tiny_artifact):
    manifest = Manifest.read(tiny_artifact)
    config, tokens, streaming = manifest.config, manifest.tokens, manifest.streaming
    for role, values in found.items():
        assert values["model_type"] == "voxtral_realtime" and values["family"] == "native" and values["role"] == role
        assert values["generator"] == manifest.generator and values["license"] == manifest.license == "apache-2.0"
        assert int(values["sample_rate"]) == config.audio.sample_rate and int(values["n_mels"]) == config.audio.n_mels
        assert float(values["global_log_mel_max"]) == config.audio.global_log_mel_max
        for prefix, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
            for name in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim", "sliding_window"):
                assert int(values[f"{prefix}_{name}"]) == getattr(stack, name)
            assert float(values[f"{prefix}_rope_theta"]) == stack.rope_theta
        assert int(values["decoder_vocab_size"]) == config.decoder.vocab_size
        for name, token_id in asdict(tokens).items():
            assert int(values[f"{name}_id"]) == token_id
        assert int(values["default_delay_tokens"]) == streaming.default_delay_tokens
        assert tuple(map(int, values["trained_delay_tokens"].split(","))) == streaming.trained_delay_tokens
        assert int(values["left_pad_tokens"]) == streaming.left_pad_tokens


def test_graphs_differ_in_their_role_alone(found):
    first = found["mel"]
    for role, values in found.items():
        assert values == {**first, "role": role}
