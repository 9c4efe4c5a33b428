"""Measure what Ray adds to the time of an archive: clips of a minute by *tiny*, with and without.

    pip install -e '.[cpu,ray]' && python bench/ray_scaling.py

Both transcribe the same clips with one worker on all cores, four at a time, into a JSON file each.
A run of few clips and one of many tell what is paid once (a cluster's start, the model) from what
each clip costs. Runs alternate, so that other jobs of the machine slow down both; the fastest of
each counts. Writes results/ray_scaling.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated

import harness
import numpy as np
import soundfile
import typer

from voxtral_onnx.threads import num_cores

SECONDS = 60  # of a clip
SOUND = harness.ROOT / "assets" / "tiny" / "samples" / "long-mixed.wav"
PLACES = 4  # files at a time
Runs = dict[str, dict[str, list[float]]]  # seconds, by the way and the number of clips
BARE = f"""
import sys
from pathlib import Path
from voxtral_onnx import Transcriber
from voxtral_onnx.cluster.rows import text_row, to_json
clips, output = Path(sys.argv[2]), Path(sys.argv[3])
output.mkdir()
with Transcriber(sys.argv[1], "cpu", batch_size={PLACES}, threads={num_cores()}) as transcriber:
    for transcript in transcriber.transcribe_many(sorted(map(str, clips.iterdir()))):
        name = Path(transcript.source.name).stem
        (output / name).write_bytes(to_json(text_row(name, transcript.source.name, transcript)))
"""


def write_clips(folder: Path, count: int) -> Path:
    """Write clips of a minute, each with a loudness of its own."""
    sound, rate = soundfile.read(SOUND, dtype="float32")
    minute = np.resize(sound, SECONDS * rate)
    folder.mkdir()
    for number in range(count):
        soundfile.write(folder / f"{number:03}.wav", minute * (1 - number / 500), rate)
    return folder


def timed(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    own = os.environ | {"RAY_worker_niceness": "0"}  # else other jobs come first with Ray alone
    began = perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir(), env=own)
    return round(perf_counter() - began, 3)


def command_of(way: str, artifact: str, clips: Path, output: Path) -> list[str]:
    """Return the command that transcribes clips, with Ray or without."""
    if way == "bare":
        return [sys.executable, "-c", BARE, artifact, str(clips), str(output)]
    options = [
        "-m",
        artifact,
        "--threads",
        str(num_cores()),
        "--batch-size",
        str(PLACES),
        "--device",
        "cpu",
    ]
    options += ["--engine", "ray", "-f", "json", "-o", str(output)]
    return [sys.executable, "-m", "voxtral_onnx", "transcribe", str(clips), *options]


def summarize(runs: Runs, few: int, many: int) -> dict[str, dict[str, float]]:
    """Return what each clip costs, and what is paid once, by the fastest runs of both lengths."""
    seconds = {}
    for way, found in runs.items():
        least, most = (min(found[str(count)]) for count in (few, many))
        a_clip = (most - least) / (many - few)
        seconds[way] = {"a_clip": round(a_clip, 3), "once": round(least - few * a_clip, 3)}
    return seconds


def main(
    artifact: harness.Model = "tiny",
    few: Annotated[int, typer.Option(help="Clips of the short run.")] = 8,
    many: Annotated[int, typer.Option(help="Clips of the long run.")] = 40,
    rounds: Annotated[int, typer.Option(help="Runs of each; the fastest counts.")] = 3,
    out: harness.Out = harness.RESULTS / "ray_scaling.json",
) -> None:
    """Measure runs of both ways and both lengths, in turn."""
    head = harness.describe("seconds of runs with and without Ray", "ray", "onnxruntime")
    runs: Runs = {"bare": {}, "ray": {}}
    loads = list[float]()

    # Run both ways in turn
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = {count: write_clips(folder / f"clips-{count}", count) for count in (few, many)}
        for number in range(rounds):
            for count, source in clips.items():
                for way, found in runs.items():
                    output = folder / f"{way}-{count}-{number}"
                    found.setdefault(str(count), []).append(
                        timed(command_of(way, artifact, source, output))
                    )
                    loads.append(os.getloadavg()[0])
                    print(way, count, found[str(count)][-1], loads[-1], file=sys.stderr)

    # Compare them
    seconds = summarize(runs, few, many)
    overhead = round(seconds["ray"]["a_clip"] / seconds["bare"]["a_clip"] - 1, 4)
    result = head | {
        "clip_seconds": SECONDS,
        "files_at_a_time": PLACES,
        "threads": num_cores(),
        "load_average": {"least": round(min(loads), 2), "most": round(max(loads), 2)},
        "runs": runs,
        "seconds": seconds,
        "overhead": overhead,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"seconds": seconds, "overhead": overhead}, indent=1))


if __name__ == "__main__":
    harness.run(main)
