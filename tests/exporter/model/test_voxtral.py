"""Ladder, rung 2: our modules against transformers' own class, on random small models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import toy
from reference.eager import decode_whole, eager_modules, encode_whole, run_stages
from support.parity import assert_parity

from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.verification.layerwise import Layerwise

ATOL = 2e-4  # float32 rounding through all layers; logits have a standard deviation of about 3


@st.composite
def configs(draw):
    """Configurations whose windows roll within the test's 120 tokens, with every ratio drawn."""
    config = toy.toy_config()
    kv_heads = draw(st.integers(1, 3))
    encoder = replace(
        config.encoder,
        hidden_size=draw(st.sampled_from([32, 48, 80])),
        intermediate_size=draw(st.integers(20, 70)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=(heads := draw(st.integers(1, 4))),
        num_key_value_heads=heads,
        head_dim=draw(st.sampled_from([8, 16, 32])),
        sliding_window=draw(st.integers(5, 60)),
    )
    decoder = replace(
        config.decoder,
        hidden_size=draw(st.sampled_from([32, 64, 96])),
        intermediate_size=draw(st.integers(20, 90)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=kv_heads * draw(st.integers(1, 3)),
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([8, 16, 32])),
        sliding_window=draw(st.integers(5, 60)),
    )
    return replace(config, encoder=encoder, decoder=decoder)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(config=configs(), seed=st.integers(0, 1000), delay=st.sampled_from([1, 6, 30]))
def test_modules_equal_transformers(tmp_path_factory, config, seed, delay):
    """Whole, and layer by layer."""
    model = toy.transformers_model(config, seed)
    checkpoint = open_checkpoint(
        toy.write_mistral(model, config, tmp_path_factory.mktemp("toy") / "mistral")
    )
    encoder, decoder = eager_modules(checkpoint)
    tokens = 120
    rng = np.random.default_rng(seed)
    input_features = rng.standard_normal((1, config.audio.n_mels, 8 * tokens), dtype=np.float32)
    ids = torch.from_numpy(rng.integers(0, config.decoder.vocab_size, (1, tokens)))

    with torch.no_grad():
        features = model.model.get_audio_features(torch.from_numpy(input_features), use_cache=False)
        expected_logits = model(
            input_ids=ids,
            input_features=torch.from_numpy(input_features),
            num_delay_tokens=delay,
            use_cache=False,
        ).logits

    expected = np.asarray(getattr(features, "pooler_output"))  # noqa: B009, of a union of types
    audio_embeds = encode_whole(encoder, checkpoint, input_features)
    assert_parity(
        audio_embeds.numpy(), expected.reshape(1, tokens, -1), atol=ATOL, what="audio_embeds"
    )
    logits = decode_whole(decoder, checkpoint, ids, audio_embeds, delay)
    assert_parity(logits.numpy(), expected_logits.numpy(), atol=ATOL, what="logits")

    layers = Layerwise(checkpoint)
    layers.num_delay_tokens = delay
    _, logits = run_stages(layers, torch.from_numpy(input_features[0]), ids[0])
    assert_parity(
        logits.numpy(), expected_logits[0].numpy(), atol=ATOL, what="logits layer by layer"
    )


@pytest.mark.parametrize(
    "broken", ["q_proj.bias", "conv2.weight", "ada_rms_norm.linear2", "k_proj.weight"]
)
def test_a_wrong_weight_is_noticed(tmp_path, broken):
    config = toy.toy_config()
    model = toy.transformers_model(config, 0)
    folder = toy.write_mistral(model, config, tmp_path / "mistral")
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if broken in name).flatten()[1].add_(
            0.5
        )
    checkpoint = open_checkpoint(folder)
    encoder, decoder = eager_modules(checkpoint)
    input_features = np.random.default_rng(0).standard_normal((1, 128, 8 * 20), dtype=np.float32)
    ids = torch.randint(0, 1300, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(
            input_ids=ids,
            input_features=torch.from_numpy(input_features),
            num_delay_tokens=6,
            use_cache=False,
        ).logits
    logits = decode_whole(
        decoder, checkpoint, ids, encode_whole(encoder, checkpoint, input_features), 6
    )
    with pytest.raises(AssertionError, match="logits: error"):
        assert_parity(logits.numpy(), expected.numpy(), atol=ATOL, what="logits")
