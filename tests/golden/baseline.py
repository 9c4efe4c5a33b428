"""What *tiny* becomes.

Hashes of its files in all precisions and families, and what is heard in its samples.

tests/exporter/test_baseline.py compares; `python tests/golden/baseline.py` writes baseline.json
anew, which a change of graphs, quantisation or decoding must do on purpose.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from voxtral_onnx import Transcriber, export
from voxtral_onnx.exporter.graph.families import FAMILIES
from voxtral_onnx.exporter.precisions import PRECISIONS
from voxtral_onnx.manifest import FILE_NAME

PATH = Path(__file__).parent / "baseline.json"
SAMPLES = Path(__file__).parents[2] / "assets" / "tiny" / "samples"
HEARD = ("q4f16", "q4", "fp32")  # precisions whose tokens are kept


def place() -> dict[str, str]:
    """Return what bytes and close decisions may depend on.

    Packages, the processor's kernels, the C library.
    """
    names = ("torch", "onnx", "onnxscript", "onnx-ir", "numpy", "onnxruntime")
    return {
        **{name: version(name) for name in names},
        "machine": platform.machine(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "libc": " ".join(platform.libc_ver()),
    }


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of an artifact.

    Of the manifest without the version that wrote it.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == FILE_NAME:
            content = json.dumps({**json.loads(content), "generator": ""}).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def heard(folder: Path) -> dict[str, dict[str, Any]]:
    """Return text and token ids of every sample, by precision."""
    found: dict[str, dict[str, Any]] = {}
    for precision in HEARD:
        with Transcriber(folder, "cpu", precision=precision) as transcriber:
            for clip in sorted(SAMPLES.glob("*.wav")):
                transcript = transcriber.transcribe(clip)
                facts = {"text": transcript.text, "token_ids": list(transcript.token_ids)}
                found.setdefault(precision, {})[clip.name] = facts
    return found


def make(folder: Path) -> dict[str, Any]:
    """Export *tiny* into a folder and return all that the baseline holds."""
    artifact = export("tiny", folder, precisions=tuple(PRECISIONS), families=tuple(FAMILIES))
    return {"place": place(), "files": hashes(artifact), "heard": heard(artifact)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        values = make(Path(folder) / "tiny-onnx")
    text = json.dumps(values, indent=1, ensure_ascii=False)
    PATH.write_text(text + "\n")
