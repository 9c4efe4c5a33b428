"""Recipes: TOML files of a user, or of somebody else."""

from __future__ import annotations

from pathlib import Path

from voxtral_onnx.quant import recipe


def seeds() -> dict[str, bytes]:
    """Return the shipped recipes."""
    folder = Path(recipe.__file__).parent / "recipes"
    return {path.stem: path.read_bytes() for path in folder.glob("*.toml")}


def parse(data: bytes, folder: Path) -> None:
    """Load it; what is taken stands in a manifest."""
    path = folder / "mixed.toml"
    path.write_bytes(data)
    found = recipe.load_recipe(str(path))
    assert recipe.Recipe.of(found.spec()) == found
    found.rule_for("language_model.embed_tokens")
