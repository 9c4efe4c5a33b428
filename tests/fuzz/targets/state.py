"""`state.json`: the last finished export, which run commands take when no model is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

from voxtral_onnx.assets import TINY_ARTIFACT
from voxtral_onnx.runtime import locate


def seeds() -> dict[str, bytes]:
    """Return the state after an export."""
    return {"export": json.dumps({"last_export": str(TINY_ARTIFACT)}).encode()}


def parse(data: bytes, folder: Path) -> None:
    """Find the model where only the state names one."""
    os.environ["XDG_STATE_HOME"] = str(folder)
    os.environ.pop(locate.ENVIRONMENT_VARIABLE, None)
    place = folder / "voxtral-onnx" / "state.json"
    place.parent.mkdir()
    place.write_bytes(data)
    locate.find_artifact(offline=True)
