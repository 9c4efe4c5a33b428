"""List the files of the 4B model's artifact with their sizes, as an export plans them.

    python bench/sizes.py [--twin build/twin]

Sizes of weight files are exact, those of graphs are estimates; the tokenizer's size is that of the
released model. Writes results/sizes.json and prints the table of docs/performance.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import harness

from voxtral_onnx.exporter.plan import plan_export
from voxtral_onnx.exporter.precisions import PRECISIONS
from voxtral_onnx.manifest import TOKENIZER
from voxtral_onnx.runtime.bench import markdown_table

PUBLISHED_TOKENIZER = 14_900_000  # bytes, as the released repository lists it
# Bytes of onnx-community's conversion of the same model
CONVERSION = {"q4f16": 2_840_000_000, "q4": 3_180_000_000}


def measure(twin: Path) -> dict[str, dict[str, int]]:
    """Return the bytes of each file, by precision and file name."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in CONVERSION:
            plan = plan_export(twin, Path(scratch) / "artifact", precisions=(name,))
            sizes = {file.name: file.size for file in plan.files}
            found[name] = sizes | {TOKENIZER: PUBLISHED_TOKENIZER}
    return found


def table(found: dict[str, dict[str, int]]) -> str:
    """Return a Markdown table with a row for each file and a column for each precision.

    Files are named without the suffix of their precision.
    """
    rows: dict[str, dict[str, int]] = {}
    for name, sizes in found.items():
        for file, size in sizes.items():
            rows.setdefault(file.replace(f"{PRECISIONS[name].suffix}.", "{S}."), {})[name] = size
    lines = [
        (f"`{file}`", *(_megabytes(sizes.get(name)) for name in found))
        for file, sizes in sorted(rows.items())
    ]
    lines.append(("all", *(_megabytes(sum(sizes.values())) for sizes in found.values())))
    lines.append(("onnx-community's conversion", *(_megabytes(CONVERSION[name]) for name in found)))
    return markdown_table(("File, in MB", *found), lines)


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:,.1f}"


def main(
    twin: harness.Twin = harness.TWIN, out: harness.Out = harness.RESULTS / "sizes.json"
) -> None:
    """Plan an export of the twin in both shipped precisions and list its files."""
    results = harness.describe("bytes of files, as an export plans them")
    found = measure(harness.find_twin(twin))
    harness.write(out, results | {"files": found, "conversion": CONVERSION})
    print(table(found))


if __name__ == "__main__":
    harness.run(main)
