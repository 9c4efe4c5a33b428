"""What some tests need besides Python, and how they run it.

Without it they are skipped, or failed where the environment's `REQUIRE` names their mark. `pytest
-m MARK` finds them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from support.commands import user_environment

WEB = Path(__file__).parents[2] / "web"
PACKAGES = Path(os.environ.get("PACKAGES", WEB))  # the folder that holds node_modules
marks: set[str] = set()  # of the test that runs


def require(mark: str, what: dict[str, bool]) -> None:
    """Skip where something is missing, or fail where the environment says that it must be there."""
    assert mark in marks, f"what needs this is marked: @pytest.mark.{mark}"
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
            "node (20.11 or newer)": node_version() >= (20, 11),
            "web/vendor (make web)": (WEB / "vendor" / "VERSION").is_file(),
            **{
                f"{name} (make web)": (PACKAGES / "node_modules" / name).is_dir()
                for name in ("onnxruntime-web", *packages)
            },
        },
    )


@cache
def node_version() -> tuple[int, ...]:
    """The version of Node.js, or nothing."""
    if shutil.which("node") is None:
        return ()
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, said.strip().removeprefix("v").split(".")))


def need_openvino() -> None:
    is_there = importlib.util.find_spec("openvino") is not None
    require("hosts", {"openvino (pip install 'voxtral-onnx[hosts]')": is_there})


def need_ray() -> None:
    packages = ("ray", "pyarrow", "moto", "flask")
    found = {name: importlib.util.find_spec(name) is not None for name in packages}
    require("ray", {f"{name} (make test-ray)": is_there for name, is_there in found.items()})


def need_chromium() -> None:
    require(
        "browser",
        {
            "chromium": chromium() is not None,
            "web/node_modules/playwright-core (make web)": (
                WEB / "node_modules" / "playwright-core"
            ).is_dir(),
        },
    )


def chromium() -> str | None:
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


def run_node(*files: str, node: str | Path = "node", **environment: str) -> None:
    done = subprocess.run(
        [node, "--test", "--test-reporter=spec", *(f"test/{file}" for file in files)],
        cwd=WEB,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def run_script(
    script: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A module outside `web`, which finds the packages there."""
    command = [
        "node",
        "--import",
        str(WEB / "packages.mjs"),
        str(WEB.parent / script),
        *map(str, arguments),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=user_environment() | environment
    )


def old_package(folder: Path, name: str, exports: str) -> None:
    """A stand-in for an older version of an npm package: what a program asks it for."""
    package = folder / "node_modules" / name
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    (package / "index.js").write_text(exports)
