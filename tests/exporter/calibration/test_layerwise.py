"""The model run stage by stage against the same modules whole.

tests/exporter/model/test_voxtral.py compares it with transformers' class.
"""

import numpy as np
import pytest
import torch
from conftest import EXACT_RECIPE
from reference.eager import decode_whole, eager_modules, encode_whole
from support.parity import assert_parity

from voxtral_onnx.errors import ShapeError
from voxtral_onnx.exporter.calibration import layerwise
from voxtral_onnx.exporter.calibration.layerwise import Layerwise, decoder_stages, encoder_stages
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.quant.recipe import FLOAT, Recipe, Rule, load_recipe

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


def run(model, features, ids):
    audio_embeds = model.encode(features)
    hidden = model.decode(ids, audio_embeds)
    return audio_embeds, torch.cat([logits for _, logits in model.logits(hidden)], -1)


@pytest.mark.parametrize(
    "recipe", [FLOAT, load_recipe(str(EXACT_RECIPE))], ids=lambda recipe: recipe.name
)
@pytest.mark.parametrize("rows", [1, 7, 26, 1000])
def test_stages_equal_whole_modules(checkpoint, features, ids, recipe, rows, monkeypatch):
    """With any number of rows a call: the toy's windows are 22 frames and 26 tokens."""
    monkeypatch.setattr(layerwise, "ROWS", rows)
    monkeypatch.setattr(layerwise, "TABLE_ROWS", 333)
    encoder, decoder = eager_modules(checkpoint, recipe)
    expected_embeds = encode_whole(encoder, checkpoint, features[None].numpy())
    expected = decode_whole(decoder, checkpoint, ids[None], expected_embeds, 6)[0]
    audio_embeds, logits = run(Layerwise(checkpoint, recipe), features, ids)
    assert_parity(audio_embeds.numpy(), expected_embeds[0].numpy(), atol=ATOL, what="audio_embeds")
    assert_parity(logits.numpy(), expected.numpy(), atol=ATOL, what="logits")


# The blank is the first of a slice, the last, in the only one
@pytest.mark.parametrize("table_rows", [32, 33, 5000])
def test_choice_is_the_decoder_graphs(checkpoint, ids, table_rows, monkeypatch):
    monkeypatch.setattr(layerwise, "TABLE_ROWS", table_rows)
    _, decoder = eager_modules(checkpoint)
    hidden = torch.randn(200, 96, generator=torch.Generator().manual_seed(0))
    blank = decoder.language_model.embed_tokens.weight[decoder.blank]
    hidden[::2] += 2 * blank  # so that blanks are chosen too
    step = decoder.sample(
        decoder.language_model.embed_tokens.logits(hidden[None]), torch.zeros(1, 200)
    )[0]
    choices = Layerwise(checkpoint).sample(hidden)
    assert choices.ids.tolist() == step[:, 0].long().tolist()
    assert 50 < (choices.ids == decoder.blank).sum() < 150
    assert_parity(choices.logprobs.float().numpy(), step[:, 1].numpy(), atol=ATOL, what="logprobs")
    assert_parity(
        choices.blank_margins.float().numpy(), step[:, 2].numpy(), atol=ATOL, what="blank margins"
    )


def test_a_changed_layer_runs_again_from_its_own_input(checkpoint, features, ids):
    kept = {}
    model = Layerwise(checkpoint)
    audio_embeds = model.encode(features, kept)
    hidden = model.decode(ids, audio_embeds, kept)
    config = checkpoint.config
    assert list(kept) == [*encoder_stages(config), *decoder_stages(config)]

    changed = Layerwise(
        checkpoint, Recipe("one group", 0, (Rule("*.layers.1.mlp.*", 4, 32, "rtn_symmetric"),))
    )
    name = "language_model.layers.1"
    (x,) = changed.run(name, [kept[name]])
    for later in decoder_stages(config)[2:]:
        (x,) = model.run(later, [x])
    encoder_stays = changed.decode(ids, audio_embeds)
    assert torch.equal(x, encoder_stays) and not torch.equal(x, hidden)


def test_linear_layers_are_observed(checkpoint, features, ids):
    """Norms of the inputs are those of hooks on the whole modules."""
    seen, expected = {}, {}

    def observe(name, inputs):
        assert inputs.ndim == 2
        seen[name] = seen.get(name, 0) + inputs.double().square().sum(0)

    run(Layerwise(checkpoint, observe=observe), features, ids)
    for module in (whole := eager_modules(checkpoint)):
        for name, part in module.named_modules():
            if type(part).__name__ == "Linear":
                part.register_forward_pre_hook(
                    lambda part, inputs, name=name: expected.update(
                        {name: inputs[0].double().square().sum((0, 1))}
                    )
                )
    embeds = encode_whole(whole[0], checkpoint, features[None].numpy())
    decode_whole(whole[1], checkpoint, ids[None], embeds, 6)
    assert seen.keys() - expected.keys() == {"language_model.embed_tokens"}
    assert len(expected) == 7 * (4 + 3) + 2
    for name, value in expected.items():
        assert_parity(seen[name].numpy(), value.numpy(), atol=ATOL, rtol=ATOL, what=name)


def test_delay(checkpoint, features, ids):
    hidden = [
        Layerwise(checkpoint, num_delay_tokens=delay).decode(ids, torch.zeros(TOKENS, 96))
        for delay in (1, 6)
    ]
    default = Layerwise(checkpoint).decode(ids, torch.zeros(TOKENS, 96))
    assert torch.equal(hidden[1], default) and not torch.equal(hidden[0], default)


@pytest.mark.parametrize("shape", [(128, 12), (64, 16)])
def test_features_that_are_no_tokens(checkpoint, shape):
    with pytest.raises(ShapeError, match=r"expected \[128, multiple of 8\]"):
        Layerwise(checkpoint).encode(torch.zeros(shape))
