"""Measure time, memory and sizes of the 4B model on a random twin of its shape (twin.py).

    python bench/full_size.py [--twin build/twin] [--precisions q4f16,q4,q8,fp16,fp32] [--keep]

Exports each precision in a call of its own, and the two shipped ones in one call; runs those that
fit this machine's memory; prints the tables of docs/performance.md and writes
results/full_size.json, where rows of other precisions stay. Each measurement runs in a new process.
The artifacts are deleted in the end.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import harness
import soundfile
import typer
from harness import stderr
from twin import write_twin

from voxtral_onnx.errors import DeviceError, StorageError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.memory import peak_memory
from voxtral_onnx.runtime.bench import Measurement, bench, markdown_table, sample_clip
from voxtral_onnx.runtime.memory import FIXED_MEMORY, cache_bytes, weight_bytes
from voxtral_onnx.runtime.transcriber import DEFAULT_CONTEXT

PRECISIONS = "q4f16,q4,q8,fp16,fp32"
TWIN_GB = 8.9  # size of the random checkpoint
# Sizes of artifacts, rounded up, for the check of free disk space
ARTIFACT_GB = {"q4f16": 2.6, "q4": 2.8, "q8": 5.0, "fp16": 9.0, "fp32": 17.8}
TIMED_CLIP = 60.0  # seconds, for the two shipped precisions
SHORT_CLIP = 2.0  # seconds, for the others, which report only the times of single calls
TIMED = ("q4f16", "q4")
COLD, HALF, ONE_CALL = "cold file cache", "half the layers", "in one call"


def export_once(checkpoint: Path, folder: Path, precisions: list[str]) -> dict[str, Any]:
    """Export in this process; return seconds and CPU seconds by phase, and the peak memory.

    `torch` says whether torch was imported.
    """
    began, phases = perf_counter(), harness.Phases("import")
    from voxtral_onnx import export
    from voxtral_onnx.exporter.binding.bind import Progress

    def follow(progress: Progress) -> None:
        phases.enter(progress.step)

    phases.enter("open")
    export(checkpoint, folder, precisions=precisions, on_progress=follow)
    return {
        "precisions": precisions,
        "phases": phases.end(),
        "seconds": round(perf_counter() - began, 1),
        "cpu_seconds": round(process_time(), 1),
        "peak_memory": peak_memory(),
        "torch": "torch" in sys.modules,
    }


def forget_pages(folder: Path) -> None:
    """Drop a folder's files from the system's file cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_pages(folder: Path) -> None:
    """Read a folder's files into the system's file cache."""
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def require_disk(work: Path, precisions: list[str]) -> None:
    """Check that the disk has room for the checkpoint's half and all artifacts.

    Raises:
        StorageError: less space is free.
    """
    needed = sum(ARTIFACT_GB[name] for name in precisions) + TWIN_GB / 2
    free = shutil.disk_usage(work).free / 1e9
    if free < needed:
        raise StorageError(
            f"{work}: needs {needed:.0f} GB, {free:.0f} GB are free; choose fewer --precisions or "
            "--work"
        )


def measure_export(
    checkpoint: Path, folder: Path, precisions: list[str], note: str
) -> dict[str, Any]:
    """Export in a new process and return its time and memory.

    The checkpoint is in the system's file cache unless `note` is COLD.
    """
    (forget_pages if note == COLD else read_pages)(checkpoint)
    load = os.getloadavg()[0]
    row = harness.in_new_process(export_once, checkpoint, folder, precisions)
    stderr.print(
        f"exported {','.join(precisions)} {note}: {row['seconds']} s, "
        f"{row['peak_memory'] / 1e6:.0f} MB, {'with' if row['torch'] else 'without'} torch"
    )
    return {"note": note, "load_average": round(load, 2), **row}


def measure_run(folder: Path, precision: str, work: Path) -> dict[str, Any]:
    """Measure loading, single calls and the transcription of a clip.

    Raises:
        DeviceError: the model does not fit this machine's memory.
    """
    seconds = TIMED_CLIP if precision in TIMED else SHORT_CLIP
    clip = work / f"clip-{seconds:.0f}.wav"
    soundfile.write(clip, sample_clip(16000, seconds), 16000)
    load = os.getloadavg()[0]
    measured = next(bench(folder, clip, precisions=[precision], repeat=1, details=True))
    stderr.print(f"ran {precision}: RTF {measured.rtf:.2f}, {measured.peak_memory / 1e9:.1f} GB")
    return {
        "load_average": round(load, 2),
        "memory_per_weight_byte": round(_memory_factor(folder, measured), 3),
        **asdict(measured),
    }


def measure_precision(
    name: str, twin: Path, half: Path, work: Path, results: dict[str, Any], *, is_first: bool
) -> None:
    """Export and run one precision; if it does not fit this machine's memory, run half its layers.

    Only the memory is of interest in a run of half the layers.
    """
    # Export it; for the first precision also from a cold file cache
    folder = work / "artifact"
    if is_first:
        results["exports"].append(measure_export(twin, folder, [name], COLD))
        shutil.rmtree(folder)
    results["exports"].append(measure_export(twin, folder, [name], ""))
    results["artifact_bytes"][name] = sum(
        file.size for file in Manifest.read(folder).files.values()
    )

    # Run it
    try:
        results["runs"].append({"layers": 1.0, **measure_run(folder, name, work)})
        fits = True
    except DeviceError as error:
        stderr.print(f"{name}: {error}", markup=False)
        fits = False
    shutil.rmtree(folder)

    # Half the layers
    if is_first or not fits:
        row = measure_export(half, folder, [name], HALF)
        if is_first:
            results["exports"].append(row)
    if not fits:
        try:
            results["runs"].append({"layers": 0.5, **measure_run(folder, name, work)})
        except DeviceError as error:
            stderr.print(f"{name}, half the layers: {error}", markup=False)
    shutil.rmtree(folder, ignore_errors=True)


def _memory_factor(folder: Path, measured: Measurement) -> float:
    """Return the resident bytes for each byte of weights, without caches and the fixed part.

    `needed_memory` of the package uses this factor. The peak while loading does not count: it
    includes pages of the weight files, which the system can drop.
    """
    manifest = Manifest.read(folder)
    assert measured.details is not None
    caches = cache_bytes(manifest, measured.precision, DEFAULT_CONTEXT)
    resident = max(measured.details.loaded_memory, measured.details.full_memory - caches)
    return (resident - FIXED_MEMORY) / weight_bytes(manifest, measured.precision)


def begin_results(out: Path, names: list[str]) -> dict[str, Any]:
    """Return new results, with the rows that this machine and version measured of other precisions.

    Args:
        out: file of the earlier results.
        names: precisions that are measured now.
    """
    measured = (
        "a random twin of the released checkpoint's names, shapes and dtypes; bytes and seconds"
    )
    results = harness.describe(measured, "onnx", "onnx-ir")
    del results["machine"]["load_average"]  # every row has its own
    results |= {"artifact_bytes": {}, "exports": [], "runs": []}
    earlier = harness.read(out)
    if (
        is_alike(earlier.get("machine"), results["machine"])
        and earlier["voxtral_onnx"] == results["voxtral_onnx"]
    ):
        results["artifact_bytes"] = earlier["artifact_bytes"]
        for row in earlier["exports"]:
            if row["note"] != ONE_CALL and row["precisions"][0] not in names:
                results["exports"].append(row)
        results["runs"] = [row for row in earlier["runs"] if row["precision"] not in names]
    return results


def is_alike(machine: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    """Return whether two descriptions of machines are equal but for the size of memory.

    The size varies a little from boot to boot.
    """
    return machine is not None and {**machine, "memory": 0} == {**other, "memory": 0}


def render_tables(results: dict[str, Any]) -> str:
    """Return the tables of performance.md: exports, then runs."""
    # Exports
    sizes = results["artifact_bytes"]
    exports = markdown_table(
        (
            "Export",
            "Artifact GB",
            "Seconds",
            "CPU s",
            "Graphs CPU s",
            "Quantise + write, CPU s",
            "Peak memory MB",
        ),
        [
            (
                ", ".join(row["precisions"]) + (f" ({row['note']})" if row["note"] else ""),
                "–"
                if row["note"] == HALF
                else f"{sum(sizes[name] for name in row['precisions']) / 1e9:.2f}",
                f"{row['seconds']:.0f}",
                f"{row['cpu_seconds']:.0f}",
                f"{row['phases']['graphs']['cpu_seconds']:.0f}",
                f"{row['phases']['weights']['cpu_seconds']:.0f}",
                f"{row['peak_memory'] / 1e6:.0f}",
            )
            for row in results["exports"]
        ],
    )

    # Runs of whole models
    whole = [row for row in results["runs"] if row["layers"] == 1]
    runs = markdown_table(
        (
            "Path",
            "Load s",
            "Loaded GB",
            "Full caches GB",
            "Encoder ms",
            "Decoder ms",
            "Full decoder ms",
            "RTF 60 s",
        ),
        [
            (
                f"{row['precision']} {row['device']}",
                f"{row['details']['load_seconds']:.1f}",
                f"{row['details']['loaded_memory'] / 1e9:.2f}",
                f"{row['details']['full_memory'] / 1e9:.2f}",
                _chunk_latency(row["details"]),
                f"{row['details']['empty_window']['decoder']['p50']:.0f}",
                f"{row['details']['full_window']['decoder']['p50']:.0f}",
                f"{row['rtf']:.2f}" if row["precision"] in TIMED else "not run",
            )
            for row in whole
        ],
    )
    return (
        f"{exports}\n\nMedians of single calls a token; the encoder in chunks, its window "
        f"full.\n\n{runs}"
    )


def _chunk_latency(details: dict[str, Any]) -> str:
    return f"{details['full_window']['encoder_chunk']['p50'] / details['chunk_tokens']:.0f}"


def main(
    work: Annotated[Path, typer.Option(help="Empty folder to write to.")] = harness.BUILD
    / "full-size",
    twin: harness.Twin = harness.TWIN,
    precisions: Annotated[str, typer.Option(help="Precisions, comma-separated.")] = PRECISIONS,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what was exported.")] = False,
    out: harness.Out = harness.RESULTS / "full_size.json",
) -> None:
    """Measure exports and runs of the full-size random twin."""
    names = precisions.split(",")
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        raise StorageError(f"{work}: is not empty, and would be deleted; choose another --work")
    require_disk(work, names)
    harness.find_twin(twin)
    with ExitStack() as after:
        if not keep:
            after.callback(shutil.rmtree, work)
        half = work / "half"
        harness.in_new_process(write_twin, half, 0.5)
        results = begin_results(out, names)
        for name in names:
            measure_precision(name, twin, half, work, results, is_first=name == TIMED[0])
            harness.write(out, results)
        results["exports"].append(measure_export(twin, work / "artifact", list(TIMED), ONE_CALL))
        results["artifact_bytes"] |= {
            name: sum(manifest.files[file].size for file in precision.files)
            for manifest in [Manifest.read(work / "artifact")]
            for name, precision in manifest.precisions.items()
        }
        harness.write(out, results)
    print(render_tables(results))


if __name__ == "__main__":
    harness.run(main)
