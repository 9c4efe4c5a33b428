"""Precisions that an artifact can have: activation type, default recipe, suffix of the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError
from ..escaping import quoted
from ..quant.kept import resolve
from ..quant.recipe import FLOAT, Recipe, load_recipe
from .checkpoint.names import quantizable_modules
from .checkpoint.open import Checkpoint


@dataclass(frozen=True, slots=True)
class PrecisionKind:
    """A precision: an activation type, a default recipe, and the suffix of its files.

    The suffixes are those of transformers.js.
    """

    dtype: str
    recipe: str | None
    suffix: str
    # The default recipe for a checkpoint that is stored in blocks which it keeps, by their type
    as_stored: Mapping[str, str] = field(default_factory=dict)

    def recipe_for(self, checkpoint: Checkpoint | None) -> Recipe:
        """Return the default recipe, for a checkpoint if one is given."""
        if checkpoint is not None:
            stored = {tensor.encoding.name for tensor in checkpoint.tensors.values()}
            for kind, name in self.as_stored.items():
                if kind in stored:
                    return load_recipe(name)
        return load_recipe(self.recipe) if self.recipe else FLOAT


_STORED_4 = {"Q4_0": "gguf-q4_0", "W4A16": "w4a16"}
_STORED_8 = {"Q8_0": "gguf-q8_0", "W8A16": "w8a16"}
PRECISIONS = {
    "q4f16": PrecisionKind("float16", "default", "_q4f16", _STORED_4),
    "q4": PrecisionKind("float32", "default", "_q4", _STORED_4),
    "q8": PrecisionKind("float32", "q8", "_quantized", _STORED_8),
    "fp16": PrecisionKind("float16", None, "_fp16"),
    "fp32": PrecisionKind("float32", None, ""),
}


def precision_kind(name: str) -> PrecisionKind:
    """Look up a precision by name.

    Raises:
        UsageError: no precision has that name.
    """
    if name not in PRECISIONS:
        raise UsageError(f"precision: expected some of {list(PRECISIONS)}, got {quoted(name)}")
    return PRECISIONS[name]


def choose_recipes(
    precisions: Sequence[str], recipe: str | Path | Recipe | None, checkpoint: Checkpoint | None
) -> dict[str, Recipe]:
    """Return the recipe of each precision, whose blocks have the sizes of the checkpoint's.

    Raises:
        QuantizationError: the recipe is not one.
        UsageError: a precision does not exist, or none of them would use the recipe.
    """
    kinds = {name: precision_kind(name) for name in precisions}
    if not kinds:
        raise UsageError(f"precision: expected some of {', '.join(PRECISIONS)}, got none")
    chosen = load_recipe(str(recipe)) if isinstance(recipe, str | Path) else recipe
    if chosen and not any(kind.recipe for kind in kinds.values()):
        raise UsageError(
            f"recipe {chosen.name}: expected a precision that is quantised, such as q4f16, got "
            f"{', '.join(kinds)}, which would ignore it; leave --recipe out, or name another "
            "with --precision"
        )
    recipes = {
        name: chosen if chosen and kind.recipe else kind.recipe_for(checkpoint)
        for name, kind in kinds.items()
    }
    if checkpoint is None:
        return recipes
    stored = {
        module: checkpoint.tensors[f"{module}.weight"].encoding.kept
        for module in quantizable_modules(checkpoint.config)
    }
    return {name: resolve(found, stored) for name, found in recipes.items()}
