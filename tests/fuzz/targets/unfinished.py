"""`unfinished.json`, by which an export that was killed is taken up again."""

from __future__ import annotations

import json
from pathlib import Path

from golden.manifests import BASE as GOOD

from voxtral_onnx.exporter import output
from voxtral_onnx.files import is_below

KEEP = "keep.txt"  # which no export has written


def seeds() -> dict[str, bytes]:
    """Return records of an export at its beginning and later."""
    graph = GOOD["precisions"]["q4"]["encoder"]
    finished = {
        "graph": graph,
        "recipe": GOOD["precisions"]["q4"]["recipe"],
        "files": {name: GOOD["files"][name] for name in (graph["path"], *graph["data"])},
    }
    facts = {
        "generator": "voxtral-onnx 0.2.0",
        "packages": {"onnx": "1.22.0"},
        "fingerprint": GOOD["fingerprint"],
        "checkpoint": {"consolidated.safetensors": [1000, 1764115200_000000000]},
    }
    record = {
        "fingerprint": GOOD["fingerprint"],
        "facts": facts,
        "files": [*GOOD["files"]],
        "finished": {graph["path"]: finished},
    }
    begun = record | {"facts": None, "files": [], "finished": {}}
    return {
        "late": json.dumps(record).encode(),
        "begun": json.dumps(begun).encode(),
        "other-version": json.dumps({"fingerprint": GOOD["fingerprint"], "v": 9}).encode(),
    }


def parse(data: bytes, folder: Path) -> None:
    """Take the export up as another begins; what it did not write stays."""
    (folder / output.UNFINISHED).write_bytes(data)
    (folder / KEEP).write_text("mine")
    state = output.read_state(folder, GOOD["fingerprint"])
    record = state.record
    assert record and all(is_below(folder, folder / name) for name in record.files)
    output.start(folder, state, None, record)
    assert (folder / KEEP).read_text() == "mine"
