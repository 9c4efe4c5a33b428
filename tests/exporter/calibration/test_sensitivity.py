"""Drifts against the whole modules in both forms, by PyTorch's own divergence."""

import numpy as np
import pytest
import torch
from reference import toy
from reference.eager import decode_whole, eager_modules, encode_whole

from voxtral_onnx.exporter.calibration import layerwise
from voxtral_onnx.exporter.calibration.calibrate import calibrate
from voxtral_onnx.exporter.calibration.layerwise import TABLE, Layerwise
from voxtral_onnx.exporter.calibration.sensitivity import (
    FORMS,
    MEASURED,
    Drift,
    groups_of,
    measure_drifts,
    measure_sensitivities,
    option_sizes,
)
from voxtral_onnx.exporter.checkpoint.names import tensor_shapes
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.quant.recipe import FLOAT, Recipe, load_recipe


@pytest.fixture(scope="module")
def checkpoint(toy_checkpoint):
    return open_checkpoint(toy_checkpoint)


@pytest.fixture(scope="module")
def clips(checkpoint):
    return calibrate(
        Layerwise(checkpoint), [toy.babble(0.6, seed) for seed in range(2)], max_passes=1
    )


def logits_of(checkpoint, recipe, clips):
    """[positions, vocab_size] where tokens are generated."""
    encoder, decoder = eager_modules(checkpoint, recipe)
    found = []
    for clip in clips:
        embeds = encode_whole(encoder, checkpoint, clip.input_features[None].numpy())[:, :-1]
        found.append(
            decode_whole(decoder, checkpoint, clip.input_ids[None], embeds, 6)[
                0, clip.first_generating :
            ]
        )
    return torch.cat(found).double()


def expected_drift(checkpoint, recipe, clips):
    plain, other = (logits_of(checkpoint, each, clips) for each in (FLOAT, recipe))
    p, q = plain.log_softmax(-1), other.log_softmax(-1)
    words = [i for i in range(plain.shape[1]) if i != toy.PAD]
    margins = [logits[:, toy.PAD] - logits[:, words].amax(-1) for logits in (plain, other)]
    return Drift(
        float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")),
        float((margins[1] - margins[0]).square().mean().sqrt()),
        int(((margins[0] > 0) != (margins[1] > 0)).sum()),
    )


@pytest.mark.parametrize("table_rows", [100, 5000])
def test_drift_is_that_of_the_whole_modules(checkpoint, clips, table_rows, monkeypatch):
    """Several recipes at once.

    Of parts early and late, of the table alone, of everything, of nothing.
    """
    monkeypatch.setattr(layerwise, "TABLE_ROWS", table_rows)
    groups = {group.name: group for group in groups_of(checkpoint.config)}
    parts = [
        ("encoder 1", "encoder 3", "decoder 1 mlp"),
        ("adapter",),
        ("decoder 2 attention",),
        ("table",),
    ]
    recipes = [
        Recipe("part", 0, tuple(rule for name in part for rule in groups[name].rules(4, 32)))
        for part in parts
    ]
    recipes += [load_recipe("default"), FLOAT]
    drifts = measure_drifts(checkpoint, clips, recipes)
    for recipe, drift in zip(recipes[:-1], drifts, strict=False):
        expected = expected_drift(checkpoint, recipe, clips)
        assert (
            drift.divergence == pytest.approx(expected.divergence, rel=1e-3)
            and drift.divergence > 1e-4
        )
        assert drift.margin == pytest.approx(expected.margin, rel=1e-3)
        assert drift.flips == expected.flips
        assert drift.total == pytest.approx(drift.divergence + drift.margin**2 / 8)
    assert drifts[-1] == Drift(0, 0, 0)


def test_groups_hold_every_matrix_once(checkpoint):
    groups = groups_of(checkpoint.config)
    for name, shape in tensor_shapes(checkpoint.config).items():
        if len(shape) == 2 and ".ada_rms_norm." not in name:
            assert sum(group.has(name.removesuffix(".weight")) for group in groups) == 1, name


def test_many_layers_share_groups():
    config = toy.toy_config(num_hidden_layers=26)
    names = [group.name for group in groups_of(config)]
    assert [name for name in names if "mlp" in name] == [
        f"decoder {2 * i}-{2 * i + 1} mlp" for i in range(13)
    ]
    assert len(set(names)) == len(names)


def test_forms(checkpoint, clips):
    """Sizes follow from shapes, drifts from the error of the weights.

    A table of 96 columns has blocks of 32 alone.
    """
    sizes = option_sizes(checkpoint, torch.float16)
    table = next(group for group in sizes if TABLE in group.patterns)
    assert list(sizes[table]) == [(4, 32), (8, 32)]
    packed, scales = 1300 * 3 * 16, 1300 * 3 * 2
    assert sizes[table][4, 32] == sum(-(-size // 4096) * 4096 for size in (packed, scales))
    assert all(list(forms) == list(FORMS) for group, forms in sizes.items() if group is not table)

    for part in measure_sensitivities(checkpoint, clips, sizes):
        by_form = {(form.bits, form.block_size): form for form in part.forms}
        assert by_form[MEASURED].drift == pytest.approx(part.drift.total)
        coarse, fine = by_form[MEASURED].drift, by_form[8, 32].drift
        assert 0 < fine < coarse / 100  # codes 17 times finer
        assert {form: value.size for form, value in by_form.items()} == sizes[part.group]


def test_drift_of_an_unmeasured_form_is_near_its_prediction(checkpoint, clips):
    """Scaling by the weights' squared error holds within a factor of three, from 4 bits to 8."""
    sizes = option_sizes(checkpoint, torch.float16)
    predicted = sum(
        form.drift
        for part in measure_sensitivities(checkpoint, clips, sizes)
        for form in part.forms[-1:]
    )
    recipe = Recipe("8 bits", 0, tuple(rule for group in sizes for rule in group.rules(8, 32)))
    (real,) = measure_drifts(checkpoint, clips, [recipe])
    assert np.log(predicted / real.total) == pytest.approx(0, abs=np.log(3))
