"""What recipes cost an export of the 4B model: CPU seconds of tracing and binding, recipes in turn in one run.

    python bench/recipes.py build/twin [--rounds 3]     # a twin that bench/twin.py wrote

The machine's speed changes within minutes, so what counts is the ratio of one round. Writes results/recipes.json.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from full_size import ROOT, export_once, in_new_process

from voxtral_onnx.runtime.bench import describe_machine, markdown_table

RESULTS = ROOT / "bench" / "results" / "recipes.json"
NEAREST = """\
accuracy_level = 4

[[rules]]
tensors = "language_model.embed_tokens"
bits = 4
block_size = 32
method = "rtn_symmetric"

[[rules]]
tensors = "*"
bits = 4
block_size = 32
method = "rtn_asymmetric"
"""


def main(
    twin: Annotated[Path, typer.Argument(help="A folder that twin.py wrote.")],
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Export with everything rounded to nearest and with `default`, in turn."""
    work = ROOT / "build" / "recipes"
    work.mkdir(parents=True)
    (work / "nearest.toml").write_text(NEAREST)
    recipes = {"rounded to nearest": str(work / "nearest.toml"), "default": "default"}
    rows: list[dict[str, Any]] = []
    try:
        for number in range(rounds):
            for name, recipe in recipes.items():
                row = in_new_process(export_once, twin, work / "artifact", ["q4f16"], recipe)
                shutil.rmtree(work / "artifact")
                seconds = {phase: times["cpu_seconds"] for phase, times in row["phases"].items()}
                rows.append({"round": number, "recipe": name, "peak_memory": row["peak_memory"], **seconds})
                print(json.dumps(rows[-1]), flush=True)
    finally:
        shutil.rmtree(work)
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    results = {
        "measured": "CPU seconds of exports of the full-size twin to q4f16, recipes in turn; peak memory in bytes",
        "machine": describe_machine(),
        "rows": rows,
        "bind_ratio": round(median(fitted["bind"] / nearest["bind"] for nearest, fitted in pairs), 3),
    }
    print(markdown_table(("", "Trace", "Bind"), [(r["recipe"], str(r["trace"]), str(r["bind"])) for r in rows]))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
