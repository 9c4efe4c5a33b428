"""Measure what a recording costs before the model hears it: to open, which reads it once, and read.

    python bench/audio.py [--seconds 60] [--runs 7] [--threads 2]

Sample clips with a little noise are written in common formats to a temporary folder. For each,
prints and writes to results/audio.json, per minute of sound and as minima of several runs:
milliseconds of CPU to open the file and to read its blocks at the model's rate; and how many times
faster several threads are that read files of their own, on a machine with nothing else to do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any

import av
import harness
import numpy as np
import soundfile
import typer

from voxtral_onnx.runtime.audio.files import AudioSource, open_audio
from voxtral_onnx.runtime.bench import markdown_table, sample_clip

RATE = 16000  # Hz, the model's
NOISE = 2.0**-13  # so that no sample is digital silence
OFFSET = 0.02  # full scale 1: large enough to be removed


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of recording: its name, its rate, its channels, and how it is written."""

    name: str
    rate: int
    channels: int
    write: Callable[[Path, np.ndarray, int], None]
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """The measures of one kind, per minute of sound."""

    kind: str
    open_ms: float  # of CPU
    read_ms: float  # of CPU
    times_faster: float  # with several threads than with one


def by_soundfile(container: str, codec: str) -> Callable[[Path, np.ndarray, int], None]:
    """Return a function that writes samples, float [n, channels], with libsndfile."""

    def write(path: Path, samples: np.ndarray, rate: int) -> None:
        with soundfile.SoundFile(
            path, "w", rate, samples.shape[1], codec, format=container
        ) as file:
            for start in range(0, len(samples), rate):  # libsndfile's Opus fails on long pieces
                file.write(samples[start : start + rate])

    return write


def by_av(container: str, codec: str) -> Callable[[Path, np.ndarray, int], None]:
    """Return a function that writes samples, float [n, channels], with PyAV."""

    def write(path: Path, samples: np.ndarray, rate: int) -> None:
        layout = "mono" if samples.shape[1] == 1 else "stereo"
        with av.open(str(path), "w", format=container) as opened:
            output: Any = opened
            track = output.add_stream(codec, rate=rate, layout=layout)
            planes = np.ascontiguousarray(samples.T, np.float32)
            frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            resampler = av.AudioResampler(track.format, layout, rate, track.frame_size or 1024)
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                output.mux(track.encode(part))
            output.mux(track.encode(None))

    return write


WAV, FLAC = by_soundfile("WAV", "PCM_16"), by_soundfile("FLAC", "PCM_16")
KINDS = (
    Kind("WAV 16 kHz mono", 16000, 1, WAV),
    Kind("WAV 16 kHz mono, offset", 16000, 1, WAV, OFFSET),
    Kind("WAV 16 kHz mono, float", 16000, 1, by_soundfile("WAV", "FLOAT")),
    Kind("WAV 16 kHz stereo", 16000, 2, WAV),
    Kind("WAV 44.1 kHz stereo", 44100, 2, WAV),
    Kind("WAV 48 kHz stereo", 48000, 2, WAV),
    Kind("FLAC 16 kHz mono", 16000, 1, FLAC),
    Kind("FLAC 44.1 kHz stereo", 44100, 2, FLAC),
    Kind("MP3 16 kHz mono", 16000, 1, by_soundfile("MP3", "MPEG_LAYER_III")),
    Kind("MP3 44.1 kHz stereo", 44100, 2, by_soundfile("MP3", "MPEG_LAYER_III")),
    Kind("M4A 44.1 kHz stereo", 44100, 2, by_av("ipod", "aac")),
    Kind("Ogg Opus 48 kHz mono", 48000, 1, by_soundfile("OGG", "OPUS")),
    Kind("Ogg Vorbis 44.1 kHz stereo", 44100, 2, by_soundfile("OGG", "VORBIS")),
    Kind("WebM Opus 48 kHz stereo", 48000, 2, by_av("webm", "libopus")),
)


def make(kind: Kind, seconds: float, folder: Path) -> Path:
    """Write a recording of a kind into a folder, and return its path."""
    random = np.random.default_rng(7)
    spoken = sample_clip(kind.rate, seconds)[:, None] * np.linspace(1, 0.8, kind.channels)
    samples = spoken + NOISE * random.standard_normal(spoken.shape) + kind.offset
    path = folder / f"{kind.name}.sound"
    kind.write(path, samples.clip(-1, 1), kind.rate)
    return path


def read(source: AudioSource) -> int:
    """Read all blocks, and return the number of samples."""
    return sum(map(len, source.blocks()))


def cpu_ms(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the milliseconds of CPU that a call takes, and its result."""
    began = process_time()
    result = call()
    return 1000 * (process_time() - began), result


def times_faster(path: Path, threads: int) -> float:
    """Return how many times faster several threads read one file each than one thread all."""

    def once(_: int) -> None:
        read(open_audio(path, RATE))

    seconds = list[float]()
    for workers in (1, threads):
        with ThreadPoolExecutor(workers) as pool:
            began = perf_counter()
            list(pool.map(once, range(4 * threads)))
            seconds.append(perf_counter() - began)
    return seconds[0] / seconds[1]


def measure(kind: Kind, seconds: float, runs: int, threads: int) -> Cost:
    """Measure one kind."""
    opened, blocks = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        path = make(kind, seconds, Path(folder))
        for _ in range(runs):
            spent, source = cpu_ms(lambda: open_audio(path, RATE))
            opened.append(spent)
            blocks.append(cpu_ms(lambda source=source: read(source))[0])
        faster = [times_faster(path, threads) for _ in range(3)]
    minute = 60 / seconds
    return Cost(
        kind.name,
        round(minute * min(opened), 2),
        round(minute * min(blocks), 2),
        round(max(faster), 2),
    )


def main(
    seconds: Annotated[float, typer.Option(help="Length of each recording.")] = 60.0,
    runs: Annotated[int, typer.Option(help="Runs, of which the fastest counts.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads that read at once.")] = 2,
    only: Annotated[str, typer.Option(help="Kinds whose names hold this.")] = "",
    out: harness.Out = harness.RESULTS / "audio.json",
) -> None:
    """Measure opening and reading recordings of common formats."""
    results = harness.describe("milliseconds of CPU per minute of sound", "soundfile", "soxr", "av")
    costs = list[Cost]()
    for kind in KINDS:
        if only in kind.name:
            harness.stderr.print(kind.name, markup=False)
            costs.append(measure(kind, seconds, runs, threads))
    header = ("per minute of sound, ms", "open", "read", f"{threads} threads, times")
    rows = [
        (each.kind, *(f"{value:.2f}" for value in list(asdict(each).values())[1:]))
        for each in costs
    ]
    print(markdown_table(header, rows))
    results |= {"seconds": seconds, "threads": threads, "costs": [asdict(each) for each in costs]}
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
