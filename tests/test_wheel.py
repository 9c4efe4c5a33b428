"""The wheel in an empty environment: what a user gets."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "assets" / "tiny" / "samples"
MAX_WHEEL = 60_000_000
OLDEST = (
    "onnxruntime==1.30.0",
    "numpy==1.26.4",
    "typer==0.26.0",
    "rich==13.8.0",
    "soundfile==0.13.0",
    "soxr==0.5.0",
)


@pytest.fixture(scope="module")
def wheel(shared_folder):
    folder = shared_folder / "dist"
    with FileLock(shared_folder / "dist.lock"):  # it is built in the source tree
        if not folder.exists():
            subprocess.run(
                ["make", "wheel", f"DIST={folder}"], cwd=ROOT, check=True, capture_output=True
            )
    (path,) = folder.glob("*.whl")
    return path


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name.removeprefix("voxtral_onnx/")
            for name in archive.namelist()
            if ".dist-info/" not in name
        }
        info = [name for name in archive.namelist() if ".dist-info/" in name]
    sources = {
        str(path.relative_to(ROOT))
        for pattern in (
            "*.py",
            "cli/*.py",
            "exporter/**/*.py",
            "quant/**/*.py",
            "runtime/**/*.py",
            "verification/**/*.py",
            "server/*.py",
            "publish/*.py",
            "quant/recipes/*.toml",
            "verification/*.html",
            "verification/*.toml",
            "web/*.html",
            "web/*.css",
            "web/sw.js",
            "web/src/*/*.js",
            "web/vendor/*",
        )
        for path in ROOT.glob(pattern)
    }
    tiny = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "assets" / "tiny").rglob("*")
        if path.is_file()
    }
    manifest = json.loads((ROOT / "assets" / "tiny-onnx" / "voxtral_onnx.json").read_text())
    files = ("voxtral_onnx.json", "certificate.json", "certificate.html", *manifest["files"])
    artifact = {f"assets/tiny-onnx/{name}" for name in files}
    assert set(manifest["precisions"]) == {"q4f16", "q4"}
    assert names == sources | tiny | artifact | {"py.typed"}
    assert any(name.endswith("LICENSE") for name in info) and any(
        name.endswith("NOTICE.txt") for name in info
    )
    assert wheel.stat().st_size <= MAX_WHEEL


@pytest.mark.parametrize("versions", [(), OLDEST], ids=["newest", "oldest"])
def test_transcribes_without_torch(wheel, tmp_path, versions):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run(
        [python, "-m", "pip", "install", "-q", f"voxtral-onnx[cpu] @ {wheel.as_uri()}", *versions],
        check=True,
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    command = [
        python.parent / "voxtral-onnx",
        "transcribe",
        "--model",
        "tiny",
        SAMPLES / "date-hibari.wav",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "thursday the seventeenth of november nineteen forty one\n"
    assert "not a dictation model" in done.stderr
    for words in (["inspect", "tiny"], ["doctor", "tiny"]):
        told = subprocess.run(
            [python.parent / "voxtral-onnx", *words],
            cwd=tmp_path,
            env={**environment, "XDG_STATE_HOME": str(tmp_path), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert {
            "inspect": "certificate: its publisher, voxtral-onnx, says: verified on 20",
            "doctor": "sure tokens of command-hibari.wav",
        }[words[0]] in told
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout
    assert "torch" not in listed and "\nonnx " not in listed
    refused = subprocess.run(
        [python.parent / "voxtral-onnx", "export", "tiny"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 7 and "pip install" in refused.stderr and not refused.stdout
