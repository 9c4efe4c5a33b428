"""The files of the 4B model's artifact and their sizes, as an export plans them.

    python bench/sizes.py --twin build/twin      # the twin: bench/twin.py

Sizes of weight files are exact, those of graphs estimated; the twin's tokenizer counts as large as the published one.
Writes results/sizes.json and prints the README's table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from voxtral_onnx import __version__
from voxtral_onnx.exporter.plan import PRECISIONS, plan_export
from voxtral_onnx.manifest import TOKENIZER
from voxtral_onnx.runtime.bench import markdown_table

RESULTS = Path(__file__).parent / "results" / "sizes.json"
PUBLISHED_TOKENIZER = 14_900_000  # bytes, as the released repository lists it
CONVERSION = {"q4f16": 2_840_000_000, "q4": 3_180_000_000}  # bytes: onnx-community's conversion of the same model


def measure(twin: Path) -> dict[str, dict[str, int]]:
    """Bytes of each file, by precision."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in CONVERSION:
            plan = plan_export(twin, Path(scratch) / "artifact", precisions=(name,))
            sizes = {file.name: file.size for file in plan.files}
            found[name] = sizes | {TOKENIZER: PUBLISHED_TOKENIZER}
    return found


def table(found: dict[str, dict[str, int]]) -> str:
    """A row a file, the suffixes of precisions taken off."""
    rows: dict[str, dict[str, int]] = {}
    for name, sizes in found.items():
        for file, size in sizes.items():
            rows.setdefault(file.replace(f"{PRECISIONS[name].suffix}.", "{S}."), {})[name] = size
    lines = [(f"`{file}`", *(_megabytes(sizes.get(name)) for name in found)) for file, sizes in sorted(rows.items())]
    lines.append(("all", *(_megabytes(sum(sizes.values())) for sizes in found.values())))
    lines.append(("onnx-community's conversion", *(_megabytes(CONVERSION[name]) for name in found)))
    return markdown_table(("File, in MB", *found), lines)


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:,.1f}"  # noqa: RUF001


def main() -> None:
    """Plan, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twin", type=Path, required=True)
    found = measure(parser.parse_args().twin)
    values = {"planned": "bytes of files", "voxtral_onnx": __version__, "files": found, "conversion": CONVERSION}
    RESULTS.write_text(json.dumps(values, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
