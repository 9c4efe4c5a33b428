"""The table of sensitivities beside an artifact, which `quantize --budget` measures once."""

from __future__ import annotations

import json
from pathlib import Path

from voxtral_onnx.errors import QuantizationError
from voxtral_onnx.exporter import quantize
from voxtral_onnx.exporter.calibration.budget import solve_knapsack
from voxtral_onnx.exporter.calibration.sensitivity import Group

FACTS = {"generator": "voxtral-onnx 0.2.0", "fingerprint": "0f" * 32, "recordings": ["1a" * 32]}
SIZES = {
    Group("adapter", ("multi_modal_projector.*",)): {(4, 32): 1000, (8, 128): 1900},
    Group("table", ("language_model.embed_tokens",)): {(4, 32): 5000, (8, 128): 9000},
}


def seeds() -> dict[str, bytes]:
    """Return a table as it is first written."""
    parts = [
        {
            "group": {"name": group.name, "patterns": group.patterns},
            "drift": {"divergence": 0.01, "margin": 0.1, "flips": 2},
            "forms": [
                {"bits": bits, "block_size": block, "size": size, "drift": 0.1 / bits}
                for (bits, block), size in sizes.items()
            ],
        }
        for group, sizes in SIZES.items()
    ]
    return {"measured": json.dumps({"facts": FACTS, "sensitivities": parts}).encode()}


def parse(data: bytes, folder: Path) -> None:
    """Read it and choose by it; one that does not fit is as none."""
    path = folder / "table.json"
    path.write_bytes(data)
    found = quantize._read_table(path, FACTS, SIZES)
    if found is None:
        raise QuantizationError("measured anew")
    picks = solve_knapsack([part.forms for part in found], 12_000)
    assert len(picks) == len(SIZES)
