"""Measurements of how fast an artifact runs on this machine, and where the time goes.

A decoder step reads all of the decoder's weights, so it takes at least their size divided by the
memory's bandwidth. Both the step and the bandwidth are measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..assets import SAMPLES
from ..errors import AudioError, DeviceError, UsageError
from ..limits import MOST_REPEATS
from ..memory import peak_memory, resident_memory
from ..threads import check_threads
from .audio.files import AudioSource, open_audio, require_whole
from .delay import delay_ms
from .device.cache import KVCache
from .locate import find_artifact, open_artifact
from .transcriber import DEFAULT_CONTEXT, Transcriber

if TYPE_CHECKING:
    from ..hub import Progress
from .machine import read_bandwidth

CLIP_SECONDS = 15.95
CALLS = 40  # of each kind, at most
SECONDS_OF_CALLS = 4.0  # for calls of one kind, unless they are fewer than MIN_CALLS
MIN_CALLS = 5


@dataclass(frozen=True, slots=True)
class Run:
    """The time of one transcription of the clip."""

    encode_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Latency:
    """The milliseconds of a call that was repeated at the same position."""

    calls: int  # number of repetitions
    min: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class CallTimes:
    """The latencies of calls, either with empty caches or with full ones."""

    encoder: Latency  # of one token, as in live streams
    encoder_chunk: Latency  # of the largest chunk, as in files
    decoder: Latency  # of one token


@dataclass(frozen=True, slots=True)
class Details:
    """Measurements of loading, of single calls and of memory, which explain the others."""

    load_seconds: float
    load_peak_memory: int  # most resident bytes while loading
    loaded_memory: int  # resident bytes after loading
    first_step_seconds: float  # of the first encoder and decoder call after loading
    chunk_tokens: int  # in an encoder chunk
    empty_window: CallTimes
    full_window: CallTimes
    full_memory: int  # resident bytes with full caches
    decoder_bytes: int  # of the decoder's weights, which each step reads
    # Bandwidth of the memory with as many threads, in the fastest of several passes
    read_bytes_per_second: float
    # Part of it that the fastest decoder step with empty caches reaches; above 1 only on a GPU
    bandwidth_share: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """The fastest of several transcriptions of a clip, in one precision."""

    precision: str
    device: str
    threads: int
    delay_ms: int
    context: int
    audio_seconds: float
    steps: int  # decoder positions, the prompt included
    encode_ms: float  # for the whole clip
    decode_ms: float
    rtf: float  # seconds of work per second of audio
    tokens_per_second: float  # steps divided by the time of encoder and decoder
    peak_memory: int  # most resident bytes, loading included; 0 if the system does not tell
    device_memory: int  # bytes taken in a GPU's memory
    notes: tuple[str, ...]  # `Transcriber.notes`
    runs: tuple[Run, ...]
    details: Details | None  # None if they were not asked for


def bench(
    model: str | Path | None = None,
    audio: str | Path | None = None,
    *,
    precisions: Sequence[str] | None = None,
    device: str = "auto",
    delay_ms: int | None = None,
    context: int = DEFAULT_CONTEXT,
    threads: int | None = None,
    allow_fallback: bool = False,
    repeat: int = 3,
    details: bool = False,
    offline: bool = False,
    on_download: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Measurement]:
    """Measure precisions, each in a new process, so that its memory can be told.

    Args:
        model: as `Transcriber` takes it.
        audio: a file; None for 15.95 s of the bundled recordings.
        precisions: of the artifact; None for the default one, `["all"]` for all.
        device: as `Transcriber` takes it.
        delay_ms: as `Transcriber` takes it.
        context: as `Transcriber` takes it.
        threads: of onnxruntime, and to measure the memory's speed; None for one per core.
        allow_fallback: as `Transcriber` takes it.
        repeat: how often the clip is transcribed; the fastest counts.
        details: whether to measure single calls and the memory's speed as well.
        offline: as `Transcriber` takes it.
        on_download: as `Transcriber` takes it.

    Raises:
        AudioError: the file cannot be read, is empty, or has losses.
        DeviceError: as for `Transcriber`, or a process was killed.
        ArtifactError, StorageError, UsageError: as for `Transcriber`.
    """
    # Check all options before anything is measured
    if not 1 <= repeat <= MOST_REPEATS:
        raise UsageError(f"repeat: expected 1 to {MOST_REPEATS}, got {repeat}")
    check_threads(threads)
    if str(audio) == "-":
        raise UsageError("audio: expected a file, as every run reads it again, got standard input")
    folder = find_artifact(model, precisions, offline=offline, on_download=on_download)
    manifest, chosen = open_artifact(folder, precisions)
    open_clip(audio, manifest.config.audio.sample_rate)

    # Measure each precision
    for precision in chosen:
        options = {
            "device": device,
            "delay_ms": delay_ms,
            "context": context,
            "precision": precision,
            "threads": threads,
            "allow_fallback": allow_fallback,
        }
        # Hash the weights now, so that the time of it is not counted as loading
        manifest.check_contents(folder, manifest.files_of([precision]), threads=threads)
        yield _in_new_process(measure, folder, options, audio, repeat, details)


def _in_new_process(
    function: Callable[..., Any], folder: Path, options: Mapping[str, Any], *arguments: Any
) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(function, folder, options, *arguments).result()
        except BrokenProcessPool as error:
            raise DeviceError(
                f"{options['precision']}: its process was ended from outside, most likely for want "
                "of memory; try another --precision or a smaller --context"
            ) from error


def measure(
    folder: Path, options: Mapping[str, Any], audio: str | Path | None, repeat: int, details: bool
) -> Measurement:
    """Measure in this process; the arguments are those of `bench` and of `Transcriber`."""
    # Load the model
    began = perf_counter()
    transcriber = Transcriber(folder, **options)
    loading = perf_counter() - began, peak_memory(), resident_memory()
    began = perf_counter()
    _first_step(transcriber)
    first_step_seconds = perf_counter() - began

    # Transcribe the clip
    source = open_clip(audio, transcriber.sample_rate)
    transcriber.stream()  # makes the state that all streams begin with
    runs, steps = [], 0
    for _ in range(repeat):
        run, steps = transcribe_once(transcriber, source)
        runs.append(run)
    peak = peak_memory()
    best = min(runs, key=lambda run: run.encode_ms + run.decode_ms)
    seconds = (best.encode_ms + best.decode_ms) / 1000

    # Report the fastest
    threads = check_threads(options["threads"])
    return Measurement(
        precision=transcriber.precision,
        device=transcriber.device_name,
        threads=threads,
        delay_ms=_delay_ms(transcriber),
        context=transcriber.context,
        audio_seconds=source.duration,
        steps=steps,
        encode_ms=best.encode_ms,
        decode_ms=best.decode_ms,
        rtf=seconds / source.duration,
        tokens_per_second=steps / seconds,
        peak_memory=peak,
        device_memory=transcriber.device.taken_memory(),
        notes=transcriber.notes,
        runs=tuple(runs),
        details=_details(transcriber, threads, loading, first_step_seconds) if details else None,
    )


def open_clip(audio: str | Path | None, sample_rate: int) -> AudioSource:
    """Open a file, or the bundled recordings if it is None.

    Raises:
        AudioError: it cannot be read, is empty, or has losses.
    """
    source = open_audio(sample_clip(sample_rate) if audio is None else audio, sample_rate)
    if not source.duration:
        raise AudioError(f"{source.name}: an empty clip has no speed")
    require_whole(source)
    return source


def sample_clip(sample_rate: int, seconds: float = CLIP_SECONDS) -> np.ndarray:
    """Return the bundled recordings one after the other, float32 [seconds * sample_rate].

    They are cut to the length, or repeated until it is reached.
    """
    files = sorted(SAMPLES.glob("*.wav"))
    spoken = np.concatenate(
        [block for file in files for block in open_audio(file, sample_rate).blocks()]
    )
    return np.resize(spoken, round(seconds * sample_rate))


def transcribe_once(transcriber: Transcriber, source: AudioSource) -> tuple[Run, int]:
    """Transcribe a clip, and return the times and the number of decoder positions.

    The model's end-of-text token does not end it, so that all runs have equally many positions.
    """
    stream = transcriber.stream()
    for block in source.blocks():
        stream.feed(block)
    stream.finish()
    timings = stream.timings
    return Run(1000 * timings.encode_seconds, 1000 * timings.decode_seconds), timings.steps


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns: the first to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *aligned[1:]]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def _details(
    transcriber: Transcriber,
    threads: int,
    loading: tuple[float, int, int],
    first_step_seconds: float,
) -> Details:
    # Time calls with empty caches, then with full ones
    encoder_cache, decoder_cache = (
        transcriber.model.encoder.new_cache(),
        transcriber.model.decoder.new_cache(),
    )
    empty = _time_calls(transcriber, encoder_cache, decoder_cache, full=False)
    for cache in (encoder_cache, decoder_cache):
        _fill(cache)
    full = _time_calls(transcriber, encoder_cache, decoder_cache, full=True)
    full_memory = resident_memory()

    # Compare the decoder with the memory's speed
    manifest = transcriber.manifest
    decoder_bytes = sum(
        manifest.files[file].size
        for file in manifest.precisions[transcriber.precision].decoder.data
    )
    bandwidth = read_bandwidth(threads)
    return Details(
        load_seconds=loading[0],
        load_peak_memory=loading[1],
        loaded_memory=loading[2],
        first_step_seconds=first_step_seconds,
        chunk_tokens=manifest.streaming.max_chunk_tokens,
        empty_window=empty,
        full_window=full,
        full_memory=full_memory,
        decoder_bytes=decoder_bytes,
        read_bytes_per_second=bandwidth,
        bandwidth_share=decoder_bytes / (empty.decoder.min / 1000) / bandwidth,
    )


def _first_step(transcriber: Transcriber) -> None:
    embeds = transcriber.model.encoder.encode(
        transcriber.model.encoder.new_cache(), _silence(transcriber, 1)
    )
    bos = transcriber.manifest.tokens.bos
    transcriber.model.decoder.step(
        transcriber.model.decoder.new_cache(), [bos], embeds, transcriber.num_delay_tokens
    )


def _time_calls(
    transcriber: Transcriber, encoder_cache: KVCache, decoder_cache: KVCache, *, full: bool
) -> CallTimes:
    # Make inputs
    encoder, decoder, manifest = (
        transcriber.model.encoder,
        transcriber.model.decoder,
        transcriber.manifest,
    )
    rng = np.random.default_rng(0)
    hidden_size = manifest.config.decoder.hidden_size
    embeds = rng.standard_normal((1, hidden_size), np.float32).astype(decoder_cache.dtype)
    one, chunk = (
        _silence(transcriber, tokens) for tokens in (1, manifest.streaming.max_chunk_tokens)
    )
    pad = manifest.tokens.streaming_pad

    # Time calls at the same position again and again
    def at_place(cache: KVCache, call: Callable[[], Any]) -> Callable[[], Any]:
        def placed() -> None:
            # At a position equal to the capacity, attention sees the whole window
            cache.position = cache.spec.capacity if full else 0
            call()

        return placed

    return CallTimes(
        encoder=_time(at_place(encoder_cache, lambda: encoder.encode(encoder_cache, one))),
        encoder_chunk=_time(at_place(encoder_cache, lambda: encoder.encode(encoder_cache, chunk))),
        decoder=_time(
            at_place(
                decoder_cache,
                lambda: decoder.step(decoder_cache, [pad], embeds, transcriber.num_delay_tokens),
            )
        ),
    )


def _fill(cache: KVCache) -> None:
    values = (
        np.random.default_rng(0)
        .standard_normal(cache.buffers[0].shape, np.float32)
        .astype(cache.dtype)
    )
    for buffer in cache.buffers:
        buffer.write(values)


def _time(call: Callable[[], Any]) -> Latency:
    call()  # the first call of a shape also allocates memory
    milliseconds: list[float] = []
    while len(milliseconds) < CALLS and (
        len(milliseconds) < MIN_CALLS or sum(milliseconds) < 1000 * SECONDS_OF_CALLS
    ):
        began = perf_counter()
        call()
        milliseconds.append(1000 * (perf_counter() - began))
    p50, p95 = np.percentile(milliseconds, (50, 95))
    return Latency(len(milliseconds), min(milliseconds), float(p50), float(p95))


def _silence(transcriber: Transcriber, tokens: int) -> np.ndarray:
    rules, audio = transcriber.manifest.streaming, transcriber.manifest.config.audio
    size = rules.look_back_samples + tokens * audio.samples_per_token + rules.look_ahead_samples
    return np.zeros(size, np.float32)


def _delay_ms(transcriber: Transcriber) -> int:
    return delay_ms(transcriber.manifest, transcriber.num_delay_tokens)
