"""Time the command from its start to the first text on stdout.

Weights are packed at load, or were packed and saved before (`--prepacked`).

    python bench/first_word.py ARTIFACT [--precision q4f16]     # an export of twin.py's checkpoint
    python bench/first_word.py ARTIFACT --device cuda --out bench/results/first_word_gpu.json

A first run of each, which is not timed, fills the page cache, hashes the weights and saves packed
ones. Writes results/first_word.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import harness
import typer

from voxtral_onnx.assets import SAMPLES

CLIP = SAMPLES / "command-hibari.wav"


def first_text_seconds(command: list[str]) -> tuple[float, float]:
    """Return the seconds to the first byte, and the processor seconds of all threads until then."""
    began = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout as stdout:
        found, seconds = stdout.read(1), perf_counter() - began
        process.kill()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # so that Popen does not wait for it again
    assert found, f"no text: {' '.join(command)}"
    return seconds, usage.ru_utime + usage.ru_stime


def main(
    artifact: harness.Model,
    precision: Annotated[str, typer.Option(help="Precision of the artifact.")] = "q4f16",
    repeat: Annotated[int, typer.Option(help="Number of timed starts of each way.")] = 5,
    device: Annotated[
        str, typer.Option(help="Device; only the CPU's weights can be saved packed.")
    ] = "cpu",
    out: harness.Out = harness.RESULTS / "first_word.json",
) -> None:
    """Time starts of the command with each way of packing."""
    # Compose the command
    results = harness.describe("seconds from the start of the command to the first text")
    results |= {"precision": precision, "clip": CLIP.name}
    folder = harness.find_model(artifact, precision)
    command = [
        sys.executable,
        "-m",
        "voxtral_onnx",
        "transcribe",
        "-m",
        str(folder),
        "--precision",
        precision,
    ]
    command += ["--device", device]

    # Time it each way, without its first run
    with TemporaryDirectory(dir=folder.resolve().parent) as scratch:
        ways = (
            {"packed at load": [], "saved packed": ["--prepacked", scratch]}
            if device == "cpu"
            else {device: []}
        )
        for way, options in ways.items():
            times = [
                first_text_seconds([*command, *options, str(CLIP)]) for _ in range(repeat + 1)
            ][1:]
            elapsed, busy = zip(*times, strict=True)
            results[way] = {
                "min": round(min(elapsed), 2),
                "median": round(median(elapsed), 2),
                "processor": round(median(busy), 2),
            }

    harness.write(out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    harness.run(main)
