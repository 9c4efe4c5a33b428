"""Precisions that an artifact can have: activation type, default recipe, suffix of the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..escaping import quoted
from ..quant import gguf
from ..quant.recipe import FLOAT, Recipe, load_recipe
from .checkpoint.open import Checkpoint


@dataclass(frozen=True, slots=True)
class PrecisionKind:
    """A precision: an activation type, a default recipe, and the suffix of its files.

    The suffixes are those of transformers.js.
    """

    dtype: str
    recipe: str | None
    suffix: str
    as_stored: str | None = None  # the default recipe for a GGUF whose blocks it can keep

    def recipe_for(self, checkpoint: Checkpoint | None) -> Recipe:
        """Return the default recipe, for a checkpoint if one is given."""
        if self.as_stored is not None and checkpoint is not None:
            kept = load_recipe(self.as_stored)
            stored = {tensor.encoding.name for tensor in checkpoint.tensors.values()}
            if any(gguf.keeps(rule, name) for rule in kept.rules for name in stored):
                return kept
        return load_recipe(self.recipe) if self.recipe else FLOAT


PRECISIONS = {
    "q4f16": PrecisionKind("float16", "default", "_q4f16", "gguf-q4_0"),
    "q4": PrecisionKind("float32", "default", "_q4", "gguf-q4_0"),
    "q8": PrecisionKind("float32", "q8", "_quantized", "gguf-q8_0"),
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
    """Return the recipe of each precision.

    Raises:
        QuantizationError: the recipe is not one.
        UsageError: a precision does not exist, or none of them would use the recipe.
    """
    kinds = {name: precision_kind(name) for name in precisions}
    chosen = load_recipe(str(recipe)) if isinstance(recipe, str | Path) else recipe
    if chosen and not any(kind.recipe for kind in kinds.values()):
        raise UsageError(
            f"recipe {chosen.name}: expected a precision that is quantised, such as q4f16, got "
            f"{', '.join(kinds)}, which would ignore it; leave --recipe out, or name another "
            "with --precision"
        )
    return {
        name: chosen if chosen and kind.recipe else kind.recipe_for(checkpoint)
        for name, kind in kinds.items()
    }
