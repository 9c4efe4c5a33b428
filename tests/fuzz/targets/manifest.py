"""`voxtral_onnx.json`, of this format and the one before."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from golden.manifests import BASE as GOOD

from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.files import is_below
from voxtral_onnx.manifest import FILE_NAME, Manifest


def seeds() -> dict[str, bytes]:
    """Return a small manifest with all that the format has, and one of format 1."""
    former = Path(__file__).parents[2] / "golden" / "manifest_1.json"
    return {
        "format-2": json.dumps(GOOD).encode(),
        "format-2-indented": json.dumps(GOOD, indent=1).encode(),
        "format-1": former.read_bytes(),
    }


def parse(data: bytes, folder: Path) -> None:
    """Read it; what is taken names files below its folder alone, and is written and read again."""
    (folder / FILE_NAME).write_bytes(data)
    manifest = Manifest.read(folder)
    names = {*manifest.files, *(name for graph in manifest.graphs() for name in graph.files)}
    assert all(is_below(folder, folder / name) for name in names)
    manifest.write(folder)
    again = asdict(Manifest.read(folder))
    assert again == asdict(manifest) | {"format": 2}
    with suppress(ArtifactError):  # there are no files
        manifest.check_files(folder, hashes=True)
    manifest.held(folder)
