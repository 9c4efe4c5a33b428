"""Measure the loss of `quantize --budget` recipes on tiny, and the cost of making one at full size.

    python bench/budget.py [--twin build/twin]      # the twin: bench/twin.py

On tiny, for several budgets: the drift from float32 that the measured sensitivities predict, the
drift of the whole recipe on the clips that calibrated it, and its drift on unseen clips. Recipes
of one storage option are measured beside them. With a twin: seconds, CPU seconds and peak memory
of making a budget recipe, half an hour on two cores. Writes results/budget.json; results of parts
that are not run stay.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import harness
import numpy as np
import soundfile
import torch
import typer

from voxtral_onnx.assets import SAMPLES, TINY
from voxtral_onnx.exporter.calibration.calibrate import EMBEDDED, calibrate, embedded_recordings
from voxtral_onnx.exporter.calibration.layerwise import Layerwise
from voxtral_onnx.exporter.calibration.sensitivity import (
    FORMS,
    groups_of,
    measure_drifts,
    measure_sensitivities,
    option_sizes,
)
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.plan import plan_export
from voxtral_onnx.exporter.quantize import spend_budget
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.quant.recipe import Recipe, load_recipe
from voxtral_onnx.runtime.bench import markdown_table

BUDGETS_MB = (8.6, 8.8, 9.0, 9.5, 10.0, 11.0, 12.0)


def measure_tiny() -> list[dict]:
    """Return one row of results for each budget and each storage option, by size."""
    # The drift that the sensitivities predict for each storage option
    checkpoint = open_checkpoint(TINY)
    model = Layerwise(checkpoint)
    seen, unseen = calibrate(model, embedded_recordings()), calibrate(model, heldout_recordings())
    groups = groups_of(checkpoint.config)
    sizes = option_sizes(checkpoint, torch.float16)
    promised = dict.fromkeys(FORMS, 0.0)
    for part in measure_sensitivities(checkpoint, seen, sizes):
        for option in part.forms:
            promised[option.bits, option.block_size] += option.drift

    # Sizes and predictions: recipes of one storage option, then of budgets
    rows, recipes = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tiny"
        for form in FORMS:
            recipe = Recipe(
                "one form", 4, tuple(rule for group in groups for rule in group.rules(*form))
            )
            plan = plan_export(checkpoint, folder, recipe=recipe)
            rows.append(
                {
                    "recipe": f"{form[0]} bits, block {form[1]}",
                    "size": sum(file.size for file in plan.files),
                }
            )
            rows[-1]["promised"] = promised[form]
            recipes.append(recipe)
        for budget in BUDGETS_MB:
            spent = spend_budget(
                checkpoint, folder, "q4f16", int(budget * 1e6), None, lambda stage: None
            )
            recipes.append(load_recipe(str(spent.recipe)))
            plan = plan_export(checkpoint, folder, recipe=recipes[-1])
            rows.append(
                {"recipe": f"budget {budget} MB", "size": sum(file.size for file in plan.files)}
            )
            rows[-1]["promised"] = spent.drift

    # The drift of each whole recipe
    for name, clips in (("calibration", seen), ("heldout", unseen)):
        for row, drift in zip(rows, measure_drifts(checkpoint, clips, recipes), strict=True):
            row[name] = {"drift": drift.total, **asdict(drift)}
    return sorted(rows, key=lambda row: row["size"])


def heldout_recordings() -> list[np.ndarray]:
    """Return the embedded samples that are not used for calibration."""
    paths = [path for path in sorted(SAMPLES.glob("*.wav")) if path.name not in EMBEDDED]
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def measure_twin(twin: Path) -> dict:
    """Measure the time and memory of making a budget recipe for a full-size twin.

    The twin's weights are random, so its drifts mean nothing.
    """
    phases = harness.Phases("calibration")
    with tempfile.TemporaryDirectory() as scratch:
        spend_budget(
            open_checkpoint(twin), Path(scratch) / "twin", "q4f16", int(2.6e9), None, phases.enter
        )
    found = phases.end().values()
    return {
        "seconds": round(sum(phase["seconds"] for phase in found)),
        "cpu_seconds": round(sum(phase["cpu_seconds"] for phase in found)),
        "calibration_seconds": round(next(iter(found))["seconds"]),
        "peak_memory": peak_memory(),
        "threads": torch.get_num_threads(),
    }


def main(
    twin: Annotated[
        Path | None, typer.Option(help="A folder of twin.py.", show_default="tiny alone")
    ] = None,
    out: harness.Out = harness.RESULTS / "budget.json",
) -> None:
    """Measure the loss of budget recipes, and the cost of making them."""
    results = harness.read(out) | harness.describe(
        "drift from float32 of recipes; sizes and memory in bytes"
    )
    results["tiny"] = measure_tiny()
    headings = (
        "Recipe",
        "MB",
        "Promised drift",
        "Real",
        "Margin",
        "Flips",
        "On unseen clips",
        "Margin",
        "Flips",
    )
    print(markdown_table(headings, [row_of(row) for row in results["tiny"]]))
    if twin:
        results["twin"] = measure_twin(harness.find_twin(twin))
    harness.write(out, results)


def row_of(row: dict) -> tuple[str, ...]:
    """Return a recipe's row of the printed table; drifts are in thousandths of a nat."""
    cells = [row["recipe"], f"{row['size'] / 1e6:.2f}", f"{1000 * row['promised']:.2f}"]
    for name in ("calibration", "heldout"):
        cells += [
            f"{1000 * row[name]['drift']:.2f}",
            f"{row[name]['margin']:.3f}",
            str(row[name]["flips"]),
        ]
    return tuple(cells)


if __name__ == "__main__":
    harness.run(main)
