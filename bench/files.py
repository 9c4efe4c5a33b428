"""Measure files end to end, from WAV files to transcripts, in batches of several sizes.

    python bench/files.py ARTIFACT                  # on a CUDA device
    python bench/files.py ARTIFACT --long 3600      # one file, in pieces
    python bench/files.py tiny --device cpu --precision q4 --batch-sizes 1,4 --seconds 10

ARTIFACT is an export of twin.py's random checkpoint, or made by skeleton.py; for `--long` one of
`skeleton.py silence`, because pieces are decoded again where words are written in a silence. Every
precision and batch size has a process of its own. The clock runs from handing over the paths to the
last transcript; the files are in the page cache. A transcript with fewer tokens than its file has
is an error, because an early end would be counted as speed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import harness
import soundfile
import typer
from sounds import write_files, write_long_file

from voxtral_onnx import Transcriber
from voxtral_onnx.memory import peak_memory

LEAST_FILES = 4
WARM_UP_SECONDS = 25.0


@dataclass(frozen=True)
class Setup:
    """The setup of all measurements, apart from the precision and the batch size."""

    artifact: Path
    device: str
    context: int
    repeats: int
    rounds: int  # files for each place in a batch
    seconds: float
    long: bool
    folder: Path  # of the WAV files


def expected_tokens(transcriber: Transcriber, path: Path) -> int:
    """Return how many tokens a file has that the model does not end early."""
    samples = soundfile.info(path).frames
    per_token = transcriber.manifest.config.audio.samples_per_token
    return -(-samples // per_token) + transcriber.manifest.streaming.right_pad_tokens - 1


def run(transcriber: Transcriber, paths: Sequence[Path]) -> dict[str, Any]:
    """Transcribe files and return times in seconds, with the sums of the files' own times.

    With several files in a call, their own times are shares of it.
    """
    before, lengths = asdict(transcriber.metrics), {}
    encode_ms = decode_ms = 0.0
    began = perf_counter()
    for transcript in transcriber.transcribe_many([str(path) for path in paths]):
        lengths[transcript.source.name] = len(transcript.token_ids)
        info = transcript.info
        encode_ms += info["encode_ms"]
        decode_ms += info["decode_ms"]
    wall = perf_counter() - began

    # Compare the lengths with those of the files
    short = [
        f"{path.name}: {lengths.get(str(path), 0)} tokens of {expected}"
        for path in paths
        if lengths.get(str(path)) != (expected := expected_tokens(transcriber, path))
    ]
    if short:
        raise RuntimeError(f"{len(short)} of {len(paths)} transcripts are cut: {short[0]}")
    encode, decode = encode_ms / 1000, decode_ms / 1000
    return {
        "wall": round(wall, 3),
        "encode": round(encode, 3),
        "decode": round(decode, 3),
        "rest": round(wall - encode - decode, 3),  # negative where both run at once
        "tokens": sum(lengths.values()),
        "engine": {
            name: round(value - before[name], 4)
            for name, value in asdict(transcriber.metrics).items()
        },
    }


def measure(setup: Setup, precision: str, batch_size: int) -> dict[str, Any]:
    """Load an artifact in this process, warm it up, and transcribe the files several times."""
    # Write the files
    count = max(LEAST_FILES, setup.rounds * batch_size)
    if setup.long:
        paths = [write_long_file(setup.folder, setup.seconds)]
    else:
        paths = write_files(setup.folder, count, setup.seconds)
    warm_up = write_files(setup.folder, batch_size, WARM_UP_SECONDS)
    audio = len(paths) * setup.seconds

    # Measure
    began = perf_counter()
    with Transcriber(
        setup.artifact,
        setup.device,
        context=setup.context,
        precision=precision,
        batch_size=batch_size,
    ) as transcriber:
        load = perf_counter() - began
        began = perf_counter()
        run(transcriber, warm_up)
        warm = perf_counter() - began
        runs = [run(transcriber, paths) for _ in range(setup.repeats)]
        device_memory = transcriber.device.taken_memory()
    walls = [each["wall"] for each in runs]
    return {
        "files": len(paths),
        "audio_seconds": audio,
        "load": round(load, 2),
        "warm_up": round(warm, 2),
        "audio_seconds_a_second": {
            "best": round(audio / min(walls), 1),
            "median": round(audio / median(walls), 1),
        },
        "runs": runs,
        "device_memory": device_memory,
        "peak_memory": peak_memory(),
    }


def main(
    artifact: harness.Model,
    device: Annotated[str, typer.Option(help="As of the transcriber.")] = "cuda",
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated.")] = "fp16,q4f16",
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1,16,64,256",
    context: Annotated[int, typer.Option(help="Decoder positions kept.")] = 1024,
    seconds: Annotated[float, typer.Option(help="Length of each file.")] = 60.0,
    rounds: Annotated[int, typer.Option(help="Files for each place in a batch.")] = 2,
    repeats: Annotated[int, typer.Option(help="Timed runs over all files.")] = 3,
    long: Annotated[float, typer.Option(help="Seconds of one file, instead of many.")] = 0.0,
    folder: Annotated[
        Path | None, typer.Option(help="Where to keep the WAV files; by default they are deleted.")
    ] = None,
    out: harness.Out = harness.RESULTS / "files_gpu.json",
) -> None:
    """Measure each precision with each batch size, and write the results after each one."""
    precisions, failed = precision.split(","), False
    found = harness.find_model(artifact, *precisions)
    name = f"one file of {long:g} s" if long else f"files of {seconds:g} s"
    head = harness.describe(
        "files end to end, from WAV to transcripts; times in seconds, memory in bytes",
        "onnxruntime-gpu",
    )
    # Short files and the long one are measured by different commands
    results: dict[str, Any] = harness.read(out) | head
    part = results.setdefault("measured_files", {}).setdefault(name, {})
    part |= {"command": head["command"], "context": context}
    with tempfile.TemporaryDirectory() as scratch:
        wav = folder or Path(scratch)
        wav.mkdir(parents=True, exist_ok=True)
        setup = Setup(found, device, context, repeats, rounds, long or seconds, bool(long), wav)
        for each in precisions:
            for size in map(int, batch_sizes.split(",")):
                row = harness.attempt(harness.in_new_process, measure, setup, each, size)
                part.setdefault(each, {})[str(size)] = row
                failed |= "error" in row
                print(f"{name}, {each}, batch size {size}: {summary(row)}", flush=True)
                harness.write(out, results)
    if failed:
        raise typer.Exit(1)


def summary(row: dict[str, Any]) -> str:
    """Return a line about a measurement, with the times of its fastest run."""
    if "error" in row:
        return row["error"]
    best = min(row["runs"], key=lambda run: run["wall"])
    speed, memory = row["audio_seconds_a_second"], row["device_memory"] / 1e9
    engine = ", ".join(f"{name} {value}" for name, value in best["engine"].items())
    return (
        f"{speed['best']} x (median {speed['median']}), wall {best['wall']}, engine: {engine}; "
        f"loaded in {row['load']} s, warmed up in {row['warm_up']} s, {memory:.1f} GB on the device"
    )


if __name__ == "__main__":
    harness.run(main)
