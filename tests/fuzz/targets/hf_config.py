"""`config.json` and `processor_config.json`: the hyperparameters in Hugging Face's layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fuzz.targets.params import check
from support.checkpoints import write_hf

from voxtral_onnx.exporter.checkpoint.open import read_config

NAMES = ("config.json", "processor_config.json")
BETWEEN = b"\n---\n"  # the two files in an input


def seeds() -> dict[str, bytes]:
    """Return those of a small model."""
    with tempfile.TemporaryDirectory() as folder:
        written = write_hf(Path(folder) / "checkpoint")
        return {"small": BETWEEN.join((written / name).read_bytes() for name in NAMES)}


def parse(data: bytes, folder: Path) -> None:
    """Read them; as `params`."""
    for name, content in zip(NAMES, data.partition(BETWEEN)[::2], strict=True):
        (folder / name).write_bytes(content)
    check(read_config(folder))
