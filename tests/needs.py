"""What some tests need besides Python: without it they are skipped, or failed where `REQUIRE` names their mark."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

WEB = Path(__file__).parent.parent / "web"


def require(mark: str, what: dict[str, bool]) -> None:
    """Skip where something is missing, or fail where the environment says that it must be there."""
    missing = [name for name, is_there in what.items() if not is_there]
    if missing:
        reason = f"{mark}: missing {', '.join(missing)}"
        if mark in os.environ.get("REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)


def need_node(*packages: str) -> None:
    """Node.js, what the page runs on, and these packages."""
    require(
        "node",
        {
            "node (20 or newer)": shutil.which("node") is not None,
            "web/vendor (make web)": (WEB / "vendor" / "VERSION").is_file(),
            **{f"{name} (make web)": (WEB / "node_modules" / name).is_dir() for name in ("onnxruntime-web", *packages)},
        },
    )
