"""The model run stage by stage against the same modules whole.

tests/exporter/model/test_voxtral.py compares it with transformers' class.
"""

import numpy as np
import pytest
import torch
from reference.eager import decode_whole, eager_modules, encode_whole, run_stages
from support.parity import assert_parity

from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.verification import layerwise
from voxtral_onnx.verification.layerwise import Layerwise, decoder_stages

ATOL = 1e-4  # float32 sums in another order, on values up to 20
TOKENS = 30  # more than the toy's windows


@pytest.fixture(scope="module")
def checkpoint(toy_checkpoint):
    return open_checkpoint(toy_checkpoint)


@pytest.fixture(scope="module")
def features():
    return torch.from_numpy(
        np.random.default_rng(0).standard_normal((128, 8 * TOKENS), dtype=np.float32)
    )


@pytest.fixture(scope="module")
def ids():
    return torch.from_numpy(np.random.default_rng(1).integers(0, 1300, TOKENS))


@pytest.mark.parametrize("rows", [1, 7, 26, 1000])
def test_stages_equal_whole_modules(checkpoint, features, ids, rows, monkeypatch):
    """With any number of rows a call: the toy's windows are 22 frames and 26 tokens."""
    monkeypatch.setattr(layerwise, "ROWS", rows)
    monkeypatch.setattr(layerwise, "TABLE_ROWS", 333)
    encoder, decoder = eager_modules(checkpoint)
    expected_embeds = encode_whole(encoder, checkpoint, features[None].numpy())
    expected = decode_whole(decoder, checkpoint, ids[None], expected_embeds, 6)[0]
    audio_embeds, logits = run_stages(Layerwise(checkpoint), features, ids)
    assert_parity(audio_embeds.numpy(), expected_embeds[0].numpy(), atol=ATOL, what="audio_embeds")
    assert_parity(logits.numpy(), expected.numpy(), atol=ATOL, what="logits")


def test_recordings_run_together_as_alone(checkpoint, features):
    """One loading of a stage serves all of them."""
    model, stage = Layerwise(checkpoint), layerwise.encoder_stages(checkpoint.config)[0]
    recordings = [features, features[:, : 8 * 7]]
    together = model.run(stage, recordings)
    for recording, found in zip(recordings, together, strict=True):
        assert torch.equal(found, model.run(stage, [recording])[0])


def test_delay(checkpoint, ids):
    """The tokenizer's, 6 tokens; another one changes the decoder's layers."""
    model, outputs = Layerwise(checkpoint), []
    x, stage = model.embed(ids), decoder_stages(checkpoint.config)[0]
    assert model.num_delay_tokens == 6
    for delay in (6, 1):
        model.num_delay_tokens = delay
        outputs += model.run(stage, [x])
    assert not torch.equal(*outputs)
