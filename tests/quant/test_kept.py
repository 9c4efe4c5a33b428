"""Which blocks a rule keeps, and the rules that a recipe becomes for a source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import small_config

from voxtral_onnx.exporter.checkpoint.names import quantizable_modules
from voxtral_onnx.quant.kept import StoredBlocks, keeps, resolve
from voxtral_onnx.quant.recipe import Recipe, Rule, load_recipe

MODULES = quantizable_modules(small_config())
TABLE = "language_model.embed_tokens"


def as_stored(bits: int, size: int = 32) -> Rule:
    return Rule("*", bits, size, "as_stored")


def rules_of(recipe: Recipe) -> list[tuple[str, int, int, str]]:
    return [(rule.tensors, rule.bits, rule.block_size, rule.method) for rule in recipe.rules]


@pytest.mark.parametrize(
    "rule",
    [
        None,
        Rule("*", 8, 32, "as_stored"),
        Rule("*", 4, 64, "as_stored"),
        Rule("*", 4, 32, "rtn_symmetric"),
    ],
)
def test_only_blocks_of_the_same_kind_are_kept(rule):
    assert keeps(as_stored(4), StoredBlocks(4, 32)) and not keeps(as_stored(4), None)
    assert not keeps(rule, StoredBlocks(4, 32))


def test_a_source_in_blocks_of_one_size_gives_one_rule():
    stored = dict.fromkeys(MODULES, StoredBlocks(4, 128))
    recipe = resolve(Recipe("mine", 4, (as_stored(4),)), stored)
    assert rules_of(recipe) == [("*", 4, 128, "as_stored")]


def test_what_is_not_in_blocks_goes_on_to_the_other_rules():
    decoder = {name for name in MODULES if name.startswith("language_model.layers.")}
    stored = {name: StoredBlocks(4, 64) if name in decoder else None for name in MODULES}
    default = load_recipe("default")
    recipe = resolve(load_recipe("w4a16"), stored)
    assert rules_of(recipe) == [
        ("language_model.layers.*", 4, 64, "as_stored"),
        *rules_of(default),
    ]
    for name in MODULES:
        rule = recipe.rule_for(name)
        assert rule and (rule.method == "as_stored" if name in decoder else rule)
        assert name in decoder or rule == default.rule_for(name)


def test_a_single_module_in_floats_is_spared():
    """An `ignore` list: rules name their modules where no pattern is true."""
    ignored = "language_model.layers.0.mlp.down_proj"
    stored = {name: None if name == ignored else StoredBlocks(8, 64) for name in MODULES}
    recipe = resolve(load_recipe("w8a16"), stored)
    for name in MODULES:
        rule = recipe.rule_for(name)
        assert rule and rule.block_size == (32 if name == ignored else 64), name
    recipe.check_patterns(MODULES)


@pytest.mark.parametrize("name", ["gguf-q4_0", "gguf-q8_0", "default", "q8", "quality", "small"])
def test_recipes_that_already_fit_stay_as_they_are(name):
    stored: dict[str, StoredBlocks | None] = dict.fromkeys(MODULES, StoredBlocks(4, 32))
    stored[TABLE] = None
    assert resolve(load_recipe(name), stored) == load_recipe(name)


@given(
    st.dictionaries(
        st.sampled_from(MODULES),
        st.builds(StoredBlocks, st.sampled_from([4, 8]), st.sampled_from([16, 32, 64, 128])),
    ),
    st.lists(
        st.sampled_from([as_stored(4), as_stored(8), *load_recipe("default").rules]), max_size=5
    ),
)
def test_every_module_is_kept_or_quantised_as_before(blocks, rules):
    """Against the rule's sentence, module by module."""
    stored = {name: blocks.get(name) for name in MODULES}
    recipe = Recipe("mine", 4, tuple(rules))
    resolved = resolve(recipe, stored)
    for name in MODULES:
        matching = [rule for rule in rules if Recipe("", 4, (rule,)).rule_for(name)]
        wanted = None
        for at, rule in enumerate(matching):
            found = blocks.get(name)
            if rule.method == "as_stored" and found and found.bits == rule.bits:
                wanted = (rule.bits, found.block_size, rule.method)
            elif rule.method != "as_stored" or at + 1 == len(matching):
                wanted = (rule.bits, rule.block_size, rule.method)
            if wanted:
                break
        rule = resolved.rule_for(name)
        assert (rule and (rule.bits, rule.block_size, rule.method)) == wanted, name
