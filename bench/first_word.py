"""Time the command from its start to the first word, by phases.

    python bench/first_word.py ARTIFACT [--precision q4f16]     # an export of twin.py's checkpoint
    python bench/first_word.py ARTIFACT --device cuda --out bench/results/first_word_gpu.json

The twin's random weights write blanks alone, so its first word is taken to be at the token where
*tiny* writes that of the same clip. A first start computes the silence before the audio, later ones
find it in the user's cache folder; both are timed in turn on the CPU, after a run that fills the
page cache and hashes the weights. Writes results/first_word.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import harness
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.files import user_folder

CLIP = SAMPLES / "command-hibari.wav"
START = Path(__file__).with_name("first_word_start.py")


def first_word() -> int:
    """Return the index of the token with which *tiny* writes the first word of the clip."""
    with Transcriber(harness.find_model("tiny", "q4"), "cpu", precision="q4") as tiny:
        tokens = list[Any]()
        _ = tiny.transcribe(CLIP, on_token=tokens.append).text
    return next(token.index for token in tokens if token.text)


def start(options: list[str], index: int) -> dict[str, Any]:
    """Run the command until a token, and return its seconds, in all and by phase."""
    command = [sys.executable, str(START), repr(time.monotonic()), str(index), *options, str(CLIP)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return minimum and median of the seconds, and the medians of each phase."""
    elapsed, busy = (
        [sum(p[kind] for p in s["phases"].values()) for s in starts] for kind in (0, 1)
    )
    phases = {
        name: {
            kind: round(median(each["phases"][name][at] for each in starts), 2)
            for at, kind in enumerate(("seconds", "processor"))
        }
        for name in starts[0]["phases"]
    }
    return {
        "min": round(min(elapsed), 2),
        "median": round(median(elapsed), 2),
        "processor": round(median(busy), 2),
        "phases": phases,
        "load_average": [round(each["load_average"], 1) for each in starts],
    }


def main(
    artifact: harness.Model,
    precision: Annotated[str, typer.Option(help="Precision of the artifact.")] = "q4f16",
    repeat: Annotated[int, typer.Option(help="Number of timed starts of each way.")] = 5,
    device: Annotated[str, typer.Option(help="Device.")] = "cpu",
    out: harness.Out = harness.RESULTS / "first_word.json",
) -> None:
    """Time first and later starts of the command in turn."""
    # Compose the command
    results = harness.describe("seconds from the start of the command to the first word")
    index = first_word()
    results |= {"precision": precision, "clip": CLIP.name, "token": index}
    options = ["transcribe", "-m", str(harness.find_model(artifact, precision))]
    options += ["--precision", precision, "--device", device]

    # Time it, after a run that is not counted
    start(options, index)
    later, first = f"{device}, later starts", f"{device}, first start"
    starts = {later: list[dict[str, Any]](), first: list[dict[str, Any]]()}
    for _ in range(repeat):
        for way, found in starts.items():
            if way == first:
                if device != "cpu":
                    continue
                shutil.rmtree(user_folder("cache") / "silences", ignore_errors=True)
            found.append(start(options, index) | {"load_average": os.getloadavg()[0]})

    results |= {way: summary(found) for way, found in starts.items() if found}
    harness.write(out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    harness.run(main)
