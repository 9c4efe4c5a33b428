"""Measure the drift of the model's decisions when one group of tensors alone is quantised.

All variants of the model advance together: a stage's float weights are loaded once for all
variants. Drift is measured with 4 bits in blocks of 32. For a group's other storage options it is
scaled by the squared error of the weights, which it is proportional to while it is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ...config import VoxtralConfig
from ...quant.blocks import dequantize_blockwise, quantize_blockwise
from ...quant.recipe import Recipe, Rule, load_recipe
from ..binding.layout import ALIGNMENT, plan_external_data
from ..checkpoint.open import Checkpoint
from ..model.linear import ModuleFactory
from ..model.voxtral import Decoder, Encoder
from .budget import StorageOption
from .calibrate import Clip
from .layerwise import TABLE, Layerwise, SampledTokens, decoder_stages, encoder_stages

FORMS = ((4, 128), (4, 64), (4, 32), (8, 128), (8, 32))  # bits, block size
MEASURED = (4, 32)
# Groups of consecutive layers; every group costs a pass through all layers behind it
MAX_ENCODER_GROUPS = 8
MAX_DECODER_GROUPS = 13
SAMPLED_ROWS = 64  # rows of a tensor that the error of its storage options is measured in
# Divergence of an undecided choice between blank and word, over the squared change of its margin:
# p (1 - p) / 2 at p = 1/2
EDGE = 1 / 8


@dataclass(frozen=True, slots=True)
class Group:
    """A group of tensors that get the same storage option."""

    name: str
    patterns: tuple[str, ...]  # shell patterns over module names, as in recipes

    def rules(self, bits: int, block_size: int) -> tuple[Rule, ...]:
        """Return the rules that give the group a storage option.

        Their methods are those of the recipes `default` and `q8`.
        """
        rules = load_recipe("default" if bits == 4 else "q8").rules
        base = Recipe("", 0, tuple(rule for rule in rules if rule.bits == bits))
        methods = {
            pattern: rule.method for pattern in self.patterns if (rule := base.rule_for(pattern))
        }
        return tuple(Rule(pattern, bits, block_size, method) for pattern, method in methods.items())

    def has(self, module: str) -> bool:
        """Return whether the module of that name is in the group."""
        return any(fnmatchcase(module, pattern) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Drift:
    """Drift of a quantised model's decisions from the float model's, over generated tokens."""

    divergence: float  # nats: mean Kullback-Leibler divergence of the next token's distribution
    margin: float  # root mean square of the change of the blank margin, a difference of two logits
    flips: int  # decisions between blank and word that change

    @property
    def total(self) -> float:
        """Return the divergence plus that of the margins' change, in nats.

        A margin's change counts as if its decision were undecided, whatever margins the clips have.
        """
        return self.divergence + EDGE * self.margin**2


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A group, its drift as measured, and its storage options."""

    group: Group
    drift: Drift
    forms: tuple[StorageOption, ...]  # from the smallest on


def groups_of(config: VoxtralConfig) -> list[Group]:
    """Return the groups that a model's tensors are divided into.

    They are runs of encoder layers, the adapter, the attention and the MLP of runs of decoder
    layers, and the tied table.
    """
    groups = [
        Group(f"encoder {label}", tuple(f"audio_tower.layers.{i}.*" for i in layers))
        for label, layers in _runs(config.encoder.num_hidden_layers, MAX_ENCODER_GROUPS)
    ]
    groups.append(Group("adapter", ("multi_modal_projector.*",)))
    for label, layers in _runs(config.decoder.num_hidden_layers, MAX_DECODER_GROUPS):
        for word, part in (("attention", "self_attn"), ("mlp", "mlp")):
            patterns = tuple(f"language_model.layers.{i}.{part}.*" for i in layers)
            groups.append(Group(f"decoder {label} {word}", patterns))
    return [*groups, Group("table", (TABLE,))]


def _runs(count: int, most: int) -> Iterator[tuple[str, range]]:
    step = -(-count // most)
    for start in range(0, count, step):
        layers = range(start, min(start + step, count))
        yield (str(start) if len(layers) == 1 else f"{start}-{layers[-1]}"), layers


def option_sizes(
    checkpoint: Checkpoint, dtype: torch.dtype
) -> dict[Group, dict[tuple[int, int], int]]:
    """Return the size in bytes of every group of tensors in each of its storage options.

    A group's sizes have bits and block size as keys, from the smallest option on.

    dtype: the type of the artifact's activations and scales.
    """
    config, tokens = checkpoint.config, Layerwise(checkpoint).tokens
    groups = groups_of(config)
    sizes: dict[Group, dict[tuple[int, int], int]] = {group: {} for group in groups}
    for option in FORMS:
        # The table is also gathered from, in whole blocks
        able = [
            group
            for group in groups
            if TABLE not in group.patterns or config.decoder.hidden_size % option[1] == 0
        ]

        # Plan the data files of both graphs with this option everywhere
        build = ModuleFactory(
            dtype, Recipe("", 0, tuple(rule for group in able for rule in group.rules(*option)))
        )
        with FakeTensorMode():
            layouts = [
                plan_external_data(module, "data", 1 << 60)
                for module in (Encoder(build, config), Decoder(build, config, tokens))
            ]
        locations = {
            name: location.size for layout in layouts for name, location in layout.locations.items()
        }

        # Sum the sizes that they have for a group
        for group in able:
            sizes[group][option] = sum(
                -(-size // ALIGNMENT) * ALIGNMENT
                for name, size in locations.items()
                if group.has(name.rpartition(".")[0]) and not name.endswith(".gather_scales")
            )
    return sizes


def measure_sensitivities(
    checkpoint: Checkpoint,
    clips: Sequence[Clip],
    sizes: Mapping[Group, Mapping[tuple[int, int], int]],
    on_stage: Callable[[str], None] = lambda stage: None,
) -> list[Sensitivity]:
    """Measure the drift of groups of a checkpoint's tensors and of their storage options.

    Args:
        checkpoint: the float model.
        clips: calibration clips, as `calibrate` returns them.
        sizes: the groups and the sizes of their storage options, as `option_sizes` returns them.
        on_stage: called with the name of every stage before it runs.
    """
    recipes = [Recipe(group.name, 0, group.rules(*MEASURED)) for group in sizes]
    drifts = measure_drifts(checkpoint, clips, recipes, on_stage)
    return [
        Sensitivity(group, drift, _options(checkpoint, group, drift, size))
        for group, drift, size in zip(sizes, drifts, sizes.values(), strict=True)
    ]


def measure_drifts(
    checkpoint: Checkpoint,
    clips: Sequence[Clip],
    recipes: Sequence[Recipe],
    on_stage: Callable[[str], None] = lambda stage: None,
) -> list[Drift]:
    """Measure the drift of the model under each of several recipes, as `measure_sensitivities`."""
    original = Layerwise(checkpoint)
    variants = [Layerwise(checkpoint, recipe) for recipe in recipes]
    plain = [clip.input_features for clip in clips]
    states: dict[int, list[Tensor]] = {}  # those of the variants that differ from it so far

    def advance(stage: str) -> None:
        nonlocal plain, states
        on_stage(stage)
        changed = {
            i: states.pop(i, plain)
            for i, recipe in enumerate(recipes)
            if _quantizes(recipe, stage, checkpoint)
        }
        outputs = iter(
            original.run(stage, [*plain, *(x for state in states.values() for x in state)])
        )
        plain = [next(outputs) for _ in clips]
        states = {i: [next(outputs) for _ in clips] for i in states}
        states |= {i: variants[i].run(stage, state) for i, state in changed.items()}

    def embed(model: Layerwise, embeds: list[Tensor]) -> list[Tensor]:
        return [
            model.embed(clip.input_ids) + x[: len(clip.input_ids)]
            for clip, x in zip(clips, embeds, strict=True)
        ]

    # Encode
    for stage in encoder_stages(checkpoint.config):
        advance(stage)

    # Add the embeddings of the tokens
    own_table = {i for i, recipe in enumerate(recipes) if recipe.rule_for(TABLE)}
    states |= {i: states.get(i, plain) for i in own_table}
    states = {
        i: embed(variants[i] if i in own_table else original, state) for i, state in states.items()
    }
    plain = embed(original, plain)

    # Decode
    for stage in decoder_stages(checkpoint.config):
        advance(stage)

    def generating(hidden: list[Tensor]) -> Tensor:
        return torch.cat(
            [x[clip.first_generating :] for clip, x in zip(clips, hidden, strict=True)]
        )

    # Compare the logits at the positions that generate tokens
    on_stage(TABLE)
    models = {i: variants[i] if i in own_table else original for i in states}
    found = _compare(
        original, generating(plain), models, {i: generating(state) for i, state in states.items()}
    )
    return [found.get(i, Drift(0, 0, 0)) for i in range(len(recipes))]


def _quantizes(recipe: Recipe, stage: str, checkpoint: Checkpoint) -> bool:
    """Return whether a recipe quantises any linear layer of a stage."""
    inside = (
        name
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(f"{stage}.") and len(tensor.shape) == 2
    )
    return any(recipe.rule_for(name.removesuffix(".weight")) for name in inside)


def _compare(
    original: Layerwise,
    plain: Tensor,
    models: Mapping[int, Layerwise],
    hidden: Mapping[int, Tensor],
) -> dict[int, Drift]:
    """Return the drifts of final hidden states [rows, hidden_size], in a pass over the vocabulary.

    The divergence of q from p is the mean of log p - log q under p. Its running sum is relative to
    the sum of exponentials so far, `SampledTokens.log_sum`, and is rescaled as that grows.
    """
    blank = original.tokens.streaming_pad
    reference, others = (
        SampledTokens(len(plain), blank),
        {i: SampledTokens(len(plain), blank) for i in hidden},
    )
    gaps = {i: torch.zeros(len(plain), dtype=torch.float64) for i in hidden}
    own = {i: model.heads() for i, model in models.items() if model is not original}
    for first, head in original.heads():
        heads = {i: next(slices)[1] for i, slices in own.items()}
        logits, before = head(plain), reference.log_sum
        reference.see(first, logits)
        shares = (logits.double() - reference.log_sum[:, None]).exp()
        shrink = (before - reference.log_sum).exp()
        for i, x in hidden.items():
            other = heads.get(i, head)(x)
            others[i].see(first, other)
            gaps[i] = gaps[i] * shrink + (shares * (logits - other)).sum(-1)
    return {i: _drift(reference, others[i], gaps[i]) for i in hidden}


def _drift(reference: SampledTokens, other: SampledTokens, gap: Tensor) -> Drift:
    divergence = (gap - reference.log_sum + other.log_sum).mean()
    change = other.blank_margins - reference.blank_margins
    flips = ((other.blank_margins > 0) != (reference.blank_margins > 0)).sum()
    return Drift(max(0.0, float(divergence)), float(change.square().mean().sqrt()), int(flips))


def _options(
    checkpoint: Checkpoint, group: Group, drift: Drift, sizes: Mapping[tuple[int, int], int]
) -> tuple[StorageOption, ...]:
    errors = {option: _squared_error(checkpoint, group, *option) for option in sizes}
    return tuple(
        StorageOption(*option, size, drift.total * errors[option] / errors[MEASURED])
        for option, size in sizes.items()
    )


def _squared_error(checkpoint: Checkpoint, group: Group, bits: int, block_size: int) -> float:
    """Return the squared error of a storage option relative to the squared weights.

    It is the mean over the group's tensors, each measured in `SAMPLED_ROWS` of its rows.
    """
    recipe, errors = Recipe(group.name, 0, group.rules(bits, block_size)), []
    for name, tensor in checkpoint.tensors.items():
        rule = recipe.rule_for(name.removesuffix(".weight"))
        if rule is None or len(tensor.shape) != 2 or ".ada_rms_norm." in name:
            continue
        starts = np.linspace(0, tensor.shape[0] - 1, SAMPLED_ROWS, dtype=int)
        rows = np.concatenate([tensor.rows(row, row + 1) for row in np.unique(starts)])
        tensor.release()
        change = rows - dequantize_blockwise(
            quantize_blockwise(rows, rule, name), rule, rows.shape[1]
        )
        errors.append(
            float(
                np.square(change, dtype=np.float64).sum() / np.square(rows, dtype=np.float64).sum()
            )
        )
    return float(np.mean(errors))
