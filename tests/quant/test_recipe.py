"""Recipes: which tensor gets which bits, and what is wrong with one that cannot be used."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.quant import recipe as recipe_module
from voxtral_onnx.quant.recipe import Recipe, Rule, load_recipe

RECIPES = sorted((Path(recipe_module.__file__).parent / "recipes").glob("*.toml"))


def test_the_first_matching_rule_counts():
    recipe = load_recipe("default")
    names = (
        "language_model.embed_tokens",
        "multi_modal_projector.linear_1",
        "audio_tower.layers.0.mlp.up_proj",
    )
    rules = [recipe.rule_for(name) for name in (*names, "language_model.layers.0.mlp.up_proj")]
    methods = ["rtn_symmetric", "rtn_symmetric", "refit_asymmetric", "rtn_asymmetric"]
    assert [rule and rule.method for rule in rules] == methods
    assert [rule and rule.bits for rule in rules] == [4, 8, 4, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules = [", "expected accuracy_level and rules"),
        ("accuracy_level = 4", "expected accuracy_level and rules"),
        ("rules = []", "accuracy_level"),
        ("accuracy_level = 9\nrules = []", "expected 0 to 4, got 9"),
        ("accuracy_level = 4\ncolour = 1\nrules = []", "colour"),
        *(
            (
                f"accuracy_level = 4\n[[rules]]\ntensors = '*'\n{line}",
                f"{line.split()[0]}: expected",
            )
            for line in (
                "bits = 3\nblock_size = 32\nmethod = 'rtn_symmetric'",
                "block_size = 256\nbits = 4\nmethod = 'rtn_symmetric'",
                "method = 'magic'\nbits = 4\nblock_size = 32",
            )
        ),
    ],
)
def test_bad_recipes_say_what_is_wrong(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(QuantizationError, match=message):
        load_recipe(str(tmp_path / "mine.toml"))


def test_a_wrong_rule_is_named_by_its_place(tmp_path):
    rule = "[[rules]]\ntensors = '*'\nbits = {}\nblock_size = 32\nmethod = 'rtn_symmetric'\n"
    place = tmp_path / "mine.toml"
    place.write_text("accuracy_level = 4\n" + rule.format(4) * 2 + rule.format("'4'"))
    with pytest.raises(QuantizationError) as caught:
        load_recipe(str(place))
    assert str(caught.value).endswith(
        "expected accuracy_level and rules as docs/export/recipes.md shows "
        "(Expected `int`, got `str`: `bits` of the third rule)"
    )
    place.write_text("accuracy_level = 4\n" + rule.format(4) * 11 + "[[rules]]\nbits = 4\n")
    with pytest.raises(QuantizationError, match=r"missing required field `tensors`: the 12th rule"):
        load_recipe(str(place))
    place.write_text("accuracy_level = '4'\nrules = []")
    with pytest.raises(QuantizationError, match=r"got `str` - at `accuracy_level`"):
        load_recipe(str(place))


def test_recipes_of_one_name_have_titles_of_their_own():
    default = load_recipe("default").spec()
    other = replace(default, accuracy_level=0)
    for title in (default.title, other.title):
        assert re.fullmatch("recipe 'default', sha256 [0-9a-f]{12}", title)
    assert default.title != other.title
    assert recipe_module.FLOAT.spec().title == "not quantised"


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(QuantizationError, match=r"'defualt'.*'default'.*'q8', 'quality', 'small'"):
        load_recipe("defualt")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_compute_in_int8(path):
    """8-bit weights at accuracy 0 are a hundred times slower on the CPU."""
    recipe = load_recipe(path.stem)
    assert recipe.accuracy_level == 4 and recipe.name == path.stem
    assert recipe.rule_for("language_model.embed_tokens") and recipe.rule_for(
        "audio_tower.layers.0.mlp.up_proj"
    )


MODULES = (
    "audio_tower.layers.0.self_attn.q_proj",
    "audio_tower.layers.1.mlp.down_proj",
    "language_model.layers.0.mlp.down_proj",
    "language_model.embed_tokens",
)


@pytest.mark.parametrize(
    ("pattern", "likely"),
    [
        ("languge_model.layers.*", "'language_model.layers.*'"),
        ("*.down_prj", "'*.down_proj'"),
        ("language_model.embed_token", "'language_model.embed_tokens'"),
        ("audio_tower.layers.9.mlp.down_proj", "'audio_tower.layers.1.mlp.down_proj'"),
        ("Audio_tower.*", "'audio_tower.*'"),
        ("xyz", "expected names such as 'audio_tower.layers.0.self_attn.q_proj'"),
    ],
)
def test_a_pattern_that_matches_nothing_names_likely_ones(pattern, likely):
    recipe = Recipe(
        "mine",
        4,
        (Rule("*.down_proj", 4, 32, "rtn_symmetric"), Rule(pattern, 4, 32, "rtn_symmetric")),
    )
    with pytest.raises(QuantizationError) as caught:
        recipe.check_patterns(MODULES)
    assert f"recipe mine: rule {pattern!r} matches no linear layer" in str(caught.value)
    assert likely in str(caught.value)


def test_patterns_that_match_are_accepted_even_behind_others():
    rules = (
        Rule("*", 4, 32, "rtn_symmetric"),
        Rule("audio_tower.layers.[01].*", 8, 32, "rtn_symmetric"),
    )
    Recipe("mine", 4, rules).check_patterns(MODULES)
    Recipe("float", 0, ()).check_patterns(MODULES)
