"""Measure the memory and the time of loading a decoder on the CPU, by their causes.

    python bench/load.py ARTIFACT...        # exports of twin.py's checkpoint

Loads each precision's decoder in a process of its own and writes results/load.json. Resident memory
is counted apart as anonymous pages, which must stay, and pages of files, which the system can drop
and processes share. Beside it stands the computed need of onnxruntime's 4-bit kernel: packed codes,
and a float32 scale and sum for every block.
"""

from __future__ import annotations

import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import harness
import numpy as np
import typer

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.device.cache import KVCache
from voxtral_onnx.runtime.device.session import Session

MB = 1e6


@dataclass(frozen=True, slots=True)
class Load:
    """The measures of one decoder that is loaded and run for one step."""

    recipe: str
    precision: str
    file_mb: float  # graph and data files
    codes_mb: float  # computed: 4-bit codes as stored
    # Computed: a float32 for every block; the kernel keeps one for scales and one for sums
    blocks_mb: float
    seconds: float  # to load, with the files in the page cache
    user_seconds: float  # of all cores, to pack weights
    system_seconds: float  # of all cores, to zero the pages that packed weights are written to
    anonymous_mb: float
    mapped_mb: float
    first_step_seconds: float
    first_step_anonymous_mb: float  # added by the first step


def measure(folder: Path, precision: str) -> Load:
    """Load a decoder in this process and run one step."""
    # Read the files into the page cache
    manifest = Manifest.read(folder)
    graph = manifest.precisions[precision].decoder
    for name in (graph.path, *graph.data):
        (folder / name).read_bytes()

    # Load
    base = _resident("RssAnon")
    before, began = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
    session = Session(folder, graph, "cpu")
    seconds, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    anonymous, mapped = _resident("RssAnon"), _resident("RssFile")

    # Run one step
    spec = manifest.caches["decoder"]
    cache = KVCache(session, spec)
    embeds = np.zeros((1, manifest.config.decoder.hidden_size), cache.dtype)
    began = perf_counter()
    Decoder(session, spec).step(
        cache, [manifest.tokens.bos], embeds, manifest.streaming.default_delay_tokens
    )
    first_step = perf_counter() - began

    # Compare with the computed need
    rules = manifest.precisions[precision].recipe.rules
    block_size = rules[-1].block_size if rules else 0
    weights = graph.parameters
    return Load(
        recipe=manifest.precisions[precision].recipe.name,
        precision=precision,
        file_mb=sum(manifest.files[name].size for name in (graph.path, *graph.data)) / MB,
        codes_mb=weights * rules[-1].bits / 8 / MB if rules else 0,
        blocks_mb=weights / block_size * 4 / MB if block_size else 0,
        seconds=seconds,
        user_seconds=after.ru_utime - before.ru_utime,
        system_seconds=after.ru_stime - before.ru_stime,
        anonymous_mb=anonymous - base,
        mapped_mb=mapped,
        first_step_seconds=first_step,
        first_step_anonymous_mb=_resident("RssAnon") - anonymous,
    )


def _resident(kind: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024 / MB
    return 0.0


def cells(load: Load) -> tuple[str, ...]:
    """Return a row of the printed table."""
    seconds = f"{load.seconds:.1f} ({load.user_seconds:.1f} + {load.system_seconds:.1f})"
    megabytes = (load.file_mb, load.codes_mb, load.blocks_mb, load.anonymous_mb, load.mapped_mb)
    first_step = f"{load.first_step_seconds:.2f} s, +{load.first_step_anonymous_mb:.0f} MB"
    return (
        f"{load.recipe} {load.precision}",
        *(f"{value:.0f}" for value in megabytes),
        seconds,
        first_step,
    )


def main(
    artifacts: Annotated[
        list[str], typer.Argument(help="Folders; tiny is exported to build/ first.")
    ],
    out: harness.Out = harness.RESULTS / "load.json",
) -> None:
    """Measure every precision of the artifacts, each in a process of its own."""
    results = harness.describe("a decoder, loaded and stepped once; seconds and megabytes")
    loads = []
    for folder in [harness.find_model(name, "q4f16", "q4") for name in artifacts]:
        for precision in Manifest.read(folder).precisions:
            for _ in range(2):  # the first warms up
                loads.append(harness.in_new_process(measure, folder, precision))
                harness.stderr.print(*cells(loads[-1]))
    headings = (
        "Recipe, precision",
        "File MB",
        "Codes",
        "Blocks",
        "Anonymous",
        "Mapped",
        "Load s",
        "First step",
    )
    print(markdown_table(headings, [cells(load) for load in loads]))
    harness.write(out, results | {"loads": [asdict(load) for load in loads]})


if __name__ == "__main__":
    harness.run(main)
