"""The command `voxtral-onnx bench`, which measures how fast an artifact transcribes here."""

from __future__ import annotations

from .._version import __version__
from . import options
from .terminal import info, write, write_json


def bench(
    artifact: options.Artifact = None,
    audio: options.BenchAudio = None,
    precision: options.ManyPrecisions = None,
    offline: options.Offline = False,
    delay: options.Delay = None,
    device: options.Device = "auto",
    allow_fallback: options.AllowFallback = False,
    threads: options.Threads = None,
    context: options.Context = 8192,
    repeat: options.Repeat = 3,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Measure how fast an artifact transcribes; each precision runs in a process of its own."""
    from dataclasses import asdict

    from ..runtime import bench as benchmark
    from ..runtime.machine import describe_machine
    from .progress import DownloadProgress
    from .tables import format_measurements
    from .values import split_names

    # Measure each precision, and print it as soon as it is known
    machine, rows = describe_machine(), []
    with DownloadProgress() as download:
        for row in benchmark.bench(
            artifact,
            audio,
            precisions=split_names(precision),
            device=device,
            delay_ms=delay,
            context=context,
            threads=threads,
            allow_fallback=allow_fallback,
            repeat=repeat,
            details=verbose or as_json,
            offline=offline,
            on_download=download.update,
        ):
            rows.append(row)
            for note in row.notes:
                info(f"note: {note}")
            length = f"{row.audio_seconds:.2f} s of audio"
            info(f"{row.precision}: the fastest of {repeat} runs over {length}")

    # Print all results
    if as_json:
        results = [asdict(row) for row in rows]
        write_json({"voxtral_onnx": __version__, "machine": machine, "results": results})
    else:
        write(format_measurements(rows))
