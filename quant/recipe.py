"""Recipes, which give each tensor its bits, as TOML files.

    accuracy_level = 4            # of MatMulNBits; 4 multiplies in int8, 0 in float
    [[rules]]
    tensors = "language_model.embed_tokens"   # shell pattern over module names
    bits = 4
    block_size = 32
    method = "rtn_symmetric"

The first rule that matches a tensor counts. A tensor that no rule matches stays in the activation
type.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from msgspec import Struct

from ..decode import convert, decode_toml, read_within
from ..errors import QuantizationError
from ..escaping import quoted
from ..limits import RECIPE
from ..manifest import RecipeSpec
from .methods import METHODS

_FOLDER = Path(__file__).parent / "recipes"
GUIDE = "docs/export/recipes.md"
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


@dataclass(frozen=True, slots=True)
class Rule:
    """The quantisation of the tensors that match one pattern."""

    tensors: str
    bits: int
    block_size: int
    method: str

    def __post_init__(self):
        if self.bits not in (4, 8):
            raise QuantizationError(
                f"rule {quoted(self.tensors)}: bits: expected 4 or 8, got {quoted(self.bits)}"
            )
        if self.block_size not in (16, 32, 64, 128):  # 256 fails on CUDA
            raise QuantizationError(
                f"rule {quoted(self.tensors)}: block_size: expected 16, 32, 64 or 128, got "
                f"{quoted(self.block_size)}"
            )
        if self.method not in METHODS:
            raise QuantizationError(
                f"rule {quoted(self.tensors)}: method: expected one of {list(METHODS)}, got "
                f"{quoted(self.method)}"
            )

    @property
    def has_zero_points(self) -> bool:
        """Return whether the method writes zero points."""
        return METHODS[self.method].has_zero_points


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules in order of precedence, and the accuracy level of MatMulNBits."""

    name: str
    accuracy_level: int
    rules: tuple[Rule, ...]

    def __post_init__(self):
        if self.accuracy_level not in (0, 1, 2, 3, 4):
            raise QuantizationError(
                f"recipe {self.name}: accuracy_level: expected 0 to 4, got "
                f"{quoted(self.accuracy_level)}"
            )

    def rule_for(self, module: str) -> Rule | None:
        """Return the first rule that matches a module's name; None if its weight stays float."""
        return next((rule for rule in self.rules if fnmatchcase(module, rule.tensors)), None)

    def check_patterns(self, modules: Collection[str]) -> None:
        """Check that every pattern matches one of the modules that can be quantised.

        Raises:
            QuantizationError: some match none; the message suggests similar patterns that do.
        """
        problems = []
        for pattern in dict.fromkeys(rule.tensors for rule in self.rules):
            if not any(fnmatchcase(module, pattern) for module in modules):
                likely = get_close_matches(
                    pattern, {like for module in modules for like in _patterns_for(module)}
                )
                hint = (
                    f"did you mean {' or '.join(map(repr, likely))}"
                    if likely
                    else f"expected names such as {next(iter(modules))!r}"
                )
                problems.append(
                    f"rule {quoted(pattern)} matches no linear layer or table of this model; {hint}"
                )
        if problems:
            raise QuantizationError(f"recipe {self.name}: " + "; ".join(problems))

    @classmethod
    def of(cls, spec: RecipeSpec) -> Recipe:
        """Return the recipe that a manifest names.

        Raises:
            QuantizationError: this package does not have one of its methods.
        """
        rules = tuple(
            Rule(rule.tensors, rule.bits, rule.block_size, rule.method) for rule in spec.rules
        )
        return cls(spec.name, spec.accuracy_level, rules)

    def spec(self) -> RecipeSpec:
        """Return the recipe as the manifest has it."""
        return convert(RecipeSpec, asdict(self), QuantizationError)


def _patterns_for(module: str) -> Iterator[str]:
    """Yield patterns by which somebody may have meant this module."""
    parts = re.sub(r"\.\d+\.", ".*.", module).split(".")
    yield module
    for cut in range(1, len(parts)):
        yield ".".join((*parts[:cut], "*"))
        yield ".".join(("*", *parts[cut:]))
    yield ".".join(parts)


FLOAT = Recipe("float", 0, ())


def load_recipe(name_or_path: str) -> Recipe:
    """Load a packaged recipe by its name, or a recipe from a TOML file.

    Raises:
        QuantizationError: there is neither, or the file is not a recipe.
    """
    path = _FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)

    def wrong(reason: str) -> QuantizationError:
        return QuantizationError(
            f"recipe {path}: expected accuracy_level and rules as {GUIDE} shows "
            f"({_with_ordinals(reason)})"
        )

    try:
        content = read_within(path, RECIPE, wrong)
    except (FileNotFoundError, NotADirectoryError):
        known = sorted(file.stem for file in _FOLDER.glob("*.toml"))
        raise QuantizationError(
            f"recipe {quoted(name_or_path)}: expected a file or one of {known}, found neither"
        ) from None
    found = decode_toml(_RecipeFile, content, wrong)
    return Recipe(path.stem, found.accuracy_level, found.rules)


def _with_ordinals(reason: str) -> str:
    """Return a decoder's reason with a rule's place in words: `bits` of the third rule."""

    def worded(match: re.Match[str]) -> str:
        at, key = int(match[1]), match[2]
        number = _ORDINALS[at] if at < len(_ORDINALS) else f"{at + 1}th"
        return f": {f'`{key}` of the ' if key else 'the '}{number} rule"

    reason = re.sub(r" - at `\$\.rules\[(\d+)\](?:\.(\w+))?`", worded, reason)
    return reason.replace(" - at `$.rules`", ": `rules`").replace("`$.", "`")


class _RecipeFile(Struct, forbid_unknown_fields=True):
    accuracy_level: int
    rules: tuple[Rule, ...]
