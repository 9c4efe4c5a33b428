"""What `quantize --budget` is worth on tiny, and what it takes at full size.

    python bench/budget.py [--twin build/twin]      # the twin: bench/twin.py

On tiny: for several budgets the drift that the measured sensitivities promise, the drift of the whole recipe on the
clips that calibrated it, and on clips it has not seen; beside them recipes of one form at their size. With a twin: the
seconds, CPU seconds and peak memory of measuring it. Writes results/budget.json; what was not run stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import wave
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch

from voxtral_onnx.exporter.calibrate import EMBEDDED, calibrate, embedded_recordings
from voxtral_onnx.exporter.checkpoint import open_checkpoint
from voxtral_onnx.exporter.layerwise import Layerwise
from voxtral_onnx.exporter.plan import TINY, plan_export
from voxtral_onnx.exporter.quantize import spend_budget
from voxtral_onnx.exporter.sensitivity import FORMS, form_sizes, groups_of, measure_drifts, measure_sensitivities
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.quant.recipe import Recipe, load_recipe
from voxtral_onnx.runtime.bench import describe_machine, markdown_table

RESULTS = Path(__file__).parent / "results" / "budget.json"
BUDGETS_MB = (8.6, 8.8, 9.0, 9.5, 10.0, 11.0, 12.0)


def measure_tiny() -> list[dict]:
    """One row a budget, one a form."""
    checkpoint = open_checkpoint(TINY)
    model = Layerwise(checkpoint)
    seen, unseen = calibrate(model, embedded_recordings()), calibrate(model, heldout_recordings())
    groups = groups_of(checkpoint.config)
    sizes = form_sizes(checkpoint, torch.float16)
    promised = dict.fromkeys(FORMS, 0.0)
    for part in measure_sensitivities(checkpoint, seen, sizes):
        for form in part.forms:
            promised[form.bits, form.block_size] += form.drift
    rows, recipes = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tiny"
        for form in FORMS:
            recipe = Recipe("one form", 4, tuple(rule for group in groups for rule in group.rules(*form)))
            plan = plan_export(checkpoint, folder, recipe=recipe)
            rows.append({"recipe": f"{form[0]} bits, block {form[1]}", "size": sum(file.size for file in plan.files)})
            rows[-1]["promised"] = promised[form]
            recipes.append(recipe)
        for budget in BUDGETS_MB:
            spent = spend_budget(checkpoint, folder, "q4f16", int(budget * 1e6), None, lambda stage: None)
            recipes.append(load_recipe(str(spent.recipe)))
            plan = plan_export(checkpoint, folder, recipe=recipes[-1])
            rows.append({"recipe": f"budget {budget} MB", "size": sum(file.size for file in plan.files)})
            rows[-1]["promised"] = spent.drift
    for name, clips in (("calibration", seen), ("heldout", unseen)):
        for row, drift in zip(rows, measure_drifts(checkpoint, clips, recipes), strict=True):
            row[name] = {"drift": drift.total, **asdict(drift)}
    return sorted(rows, key=lambda row: row["size"])


def heldout_recordings() -> list[np.ndarray]:
    """The embedded samples that do not calibrate."""
    found = []
    for path in sorted((TINY / "samples").glob("*.wav")):
        if path.name not in EMBEDDED:
            with wave.open(str(path)) as file:
                found.append(np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768)
    return found


def measure_twin(twin: Path) -> dict:
    """Time and memory of a budget at full size, by part; its drifts mean nothing."""
    checkpoint, clocks = open_checkpoint(twin), []
    began, cpu = perf_counter(), process_time()

    def clock(stage: str) -> None:
        clocks.append((stage, perf_counter() - began, process_time() - cpu))
        print(f"{clocks[-1][1]:6.0f} s {clocks[-1][2]:6.0f} CPU s {peak_memory() / 1e6:6.0f} MB  {stage}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        spend_budget(checkpoint, Path(scratch) / "twin", "q4f16", int(2.6e9), None, clock)
    return {
        "seconds": round(perf_counter() - began),
        "cpu_seconds": round(process_time() - cpu),
        "calibration_seconds": round(clocks[0][1]),
        "peak_memory": peak_memory(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure, print tables, write the results."""
    parser = argparse.ArgumentParser(description="What quantize --budget is worth and what it takes.")
    parser.add_argument("--twin", type=Path, help="a full-size checkpoint; half an hour on two cores")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = describe_machine()
    results["tiny"] = measure_tiny()
    headings = ("Recipe", "MB", "Promised drift", "Real", "Margin", "Flips", "On unseen clips", "Margin", "Flips")
    print(markdown_table(headings, [row_of(row) for row in results["tiny"]]))
    if arguments.twin:
        results["twin"] = measure_twin(arguments.twin)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def row_of(row: dict) -> tuple[str, ...]:
    """Cells of one recipe; drifts in thousandths of a nat."""
    cells = [row["recipe"], f"{row['size'] / 1e6:.2f}", f"{1000 * row['promised']:.2f}"]
    for name in ("calibration", "heldout"):
        cells += [f"{1000 * row[name]['drift']:.2f}", f"{row[name]['margin']:.3f}", str(row[name]["flips"])]
    return tuple(cells)


if __name__ == "__main__":
    main()
