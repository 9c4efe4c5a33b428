"""Time from the start of the command to the first text on stdout.

It is measured with weights that are packed at load and with weights that were saved packed.

    python bench/first_word.py ARTIFACT [--precision q4f16]     # an export of twin.py's checkpoint
    python bench/first_word.py ARTIFACT --device cuda --out bench/results/first_word_gpu.json

Each way is run once to fill the page cache, to hash the weights and to save packed ones, then
timed. Writes results/first_word.json.
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
    """Until the first byte, and processor seconds of all threads until then."""
    began = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout as stdout:
        found, seconds = stdout.read(1), perf_counter() - began
        process.kill()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # it was waited for
    assert found, f"no text: {' '.join(command)}"
    return seconds, usage.ru_utime + usage.ru_stime


def main(
    artifact: harness.Model,
    precision: Annotated[str, typer.Option(help="Of the artifact.")] = "q4f16",
    repeat: Annotated[int, typer.Option(help="Timed starts of each way.")] = 5,
    device: Annotated[
        str, typer.Option(help="Weights are saved packed for the CPU alone.")
    ] = "cpu",
    out: harness.Out = harness.RESULTS / "first_word.json",
) -> None:
    """Time starts of the command."""
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
