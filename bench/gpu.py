"""Measure speed and memory of the 4B model on a CUDA device.

    python bench/gpu.py ARTIFACT [--cpu-precision q4] [--out bench/results/gpu_speed.json]
    # likewise profile, start
    python bench/gpu.py ARTIFACT --parts rows --out bench/results/gpu_rows.json

Writes the results file after every measurement. ARTIFACT is an export of twin.py's random
checkpoint, or made by skeleton.py. The first session of a process is 7 % faster than later ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import time_calls

from voxtral_onnx import Transcriber
from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.errors import VoxtralOnnxError
from voxtral_onnx.runtime import bench
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.device.cache import KVCache
from voxtral_onnx.runtime.device.cuda import Cuda, CudaBinding
from voxtral_onnx.runtime.transcriber import DEFAULT_CONTEXT

CLIPS = (10.0, 60.0, 600.0)  # seconds
LIVE_SECONDS = 300.0
# Batch sizes; onnxruntime changes the kernel of 4-bit matrix products above 1 row and above 16 rows
ROWS = (1, 2, 4, 8, 12, 16, 17, 32, 64, 128, 256)
ROWS_CONTEXT = 1024  # positions
CALLS = 200  # timed ones, for each measurement
CLIP = SAMPLES / "command-hibari.wav"


def timed(call: Callable[[], Any], calls: int = CALLS) -> dict[str, float]:
    """Return statistics of the milliseconds of many calls."""
    return harness.statistics(time_calls(call, calls), digits=4)


def placed(cache: KVCache, position: int, call: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that makes a call at the same position of a cache each time."""

    def run() -> None:
        cache.position = position
        call()

    return run


def measure_steps(transcriber: Transcriber) -> dict[str, Any]:
    """Time single decoder and encoder calls, with an empty and with a full window.

    Each call is timed twice: with its kernels launched one by one, and replayed as a CUDA graph.
    """
    # Full caches and random inputs
    encoder, decoder, device = (
        transcriber.model.encoder,
        transcriber.model.decoder,
        transcriber.device,
    )
    assert isinstance(device, Cuda)
    encoder_cache, decoder_cache = encoder.new_cache(), decoder.new_cache()
    for cache in (encoder_cache, decoder_cache):
        bench._fill(cache)
    rng = np.random.default_rng(0)
    hidden_size = transcriber.manifest.config.decoder.hidden_size
    embeds = rng.standard_normal((1, hidden_size), np.float32).astype(decoder_cache.dtype)
    pad, delay = transcriber.manifest.tokens.streaming_pad, transcriber.num_delay_tokens

    # Calls of the decoder, the encoder and the mel graph
    results = {}
    for window in ("empty", "full"):
        at = decoder_cache.spec.capacity if window == "full" else 40
        step = placed(decoder_cache, at, lambda: decoder.step(decoder_cache, [pad], embeds, delay))
        for captures in (False, True):
            device.captures_calls = captures
            name = f"decoder, {window} window, {'replayed' if captures else 'every call anew'}"
            results[name] = timed(step)
        device.captures_calls = True
        for tokens in (1, 4, 16):
            noise = rng.standard_normal(len(bench._silence(transcriber, tokens))).astype(
                np.float32
            ) * np.float32(0.1)
            at = encoder_cache.spec.capacity if window == "full" else 0
            call = placed(
                encoder_cache, at, lambda noise=noise: encoder.encode(encoder_cache, noise)
            )
            for captures in (False, True):
                device.captures_calls = captures
                name = (
                    f"encoder, {window} window, {tokens} tokens, "
                    f"{'replayed' if captures else 'every call anew'}"
                )
                results[name] = timed(call, CALLS // 2)
            results[f"mel, {tokens} tokens"] = timed(
                lambda noise=noise: encoder.mel.run({"audio": noise[None]}), 50
            )

    # Shifts of the caches, and copies between host and device
    for name, cache in (("encoder", encoder_cache), ("decoder", decoder_cache)):
        results[f"{name}, move of the window"] = timed(
            lambda cache=cache: [buffer.shift(cache.spec.keep) for buffer in cache.buffers], 20
        )
    results["decoder, inputs and output alone"] = timed(lambda: transfer(decoder_cache))
    return results


def transfer(cache: KVCache) -> None:
    """Copy a step's inputs to the device and one output back, without running the graph."""
    assert isinstance(cache.binding, CudaBinding)
    call = cache.binding._bound
    assert call is not None
    call._value.update_inplace(call._staged)
    call.outputs[0].numpy()


def measure_clips(transcriber: Transcriber) -> dict[str, Any]:
    """Measure the real-time factors of files, in the second of two runs of each."""
    results = {}
    for seconds in CLIPS:
        clip = open_audio(
            bench.sample_clip(transcriber.sample_rate, seconds), transcriber.sample_rate
        )
        bench.transcribe_once(transcriber, clip)
        began = perf_counter()
        run, steps = bench.transcribe_once(transcriber, clip)
        wall = perf_counter() - began
        results[f"{seconds:.0f} s"] = {
            "rtf": round(wall / seconds, 5),
            "wall_seconds": round(wall, 3),
            "encode_ms": round(run.encode_ms, 1),
            "decode_ms": round(run.decode_ms, 1),
            "steps": steps,
        }
    return results


def measure_live(transcriber: Transcriber) -> dict[str, Any]:
    """Time single tokens of a stream: the milliseconds that feeding it 80 ms of samples takes.

    The samples are fed without waiting for real time.
    """
    samples = bench.sample_clip(transcriber.sample_rate, LIVE_SECONDS)
    stream, size = transcriber.stream(), transcriber.manifest.config.audio.samples_per_token
    stream.feed(samples[: 20 * size])
    milliseconds = []
    for start in range(20 * size, len(samples) - size + 1, size):
        began = perf_counter()
        stream.feed(samples[start : start + size])
        milliseconds.append(1000 * (perf_counter() - began))
    return harness.statistics(milliseconds, digits=4)


def measure_start(transcriber: Transcriber) -> dict[str, Any]:
    """Time ten new streams, one after the other, from their start to their first token.

    Samples are fed 80 ms at a time, without waiting for real time; times are in milliseconds.
    """
    samples = bench.sample_clip(transcriber.sample_rate, 5.0)
    size = transcriber.manifest.config.audio.samples_per_token
    milliseconds, fed = [], 0
    for _ in range(10):
        began = perf_counter()
        stream, fed = transcriber.stream(), 0
        while not stream.feed(samples[fed : fed + size]):
            fed += size
        milliseconds.append(round(1000 * (perf_counter() - began), 2))
    return {"milliseconds": milliseconds, "samples": fed + size}


def measure_rows(transcriber: Transcriber) -> dict[str, Any]:
    """Time raw decoder steps of a batch of streams, each at the end of a full window.

    The window has ROWS_CONTEXT positions. `main` measures q4f16 beside fp16; float32 cannot be
    measured, because its attention has no CUDA kernel.
    """
    import onnxruntime as ort

    decoder = transcriber.model.decoder
    device = transcriber.device
    config = transcriber.manifest.config.decoder
    assert isinstance(device, Cuda)
    session, spec, rng = decoder.session, decoder.spec, np.random.default_rng(0)
    results = {}
    for rows in ROWS:
        # Caches, filled with noise
        io, keep = session.ort.io_binding(), []
        shape = (rows, spec.num_key_value_heads, spec.capacity, spec.head_dim)
        noise = np.resize(
            rng.standard_normal((1, *shape[1:]), np.float32).astype(np.float16), shape
        )
        for i in range(spec.num_layers):
            for part in ("key", "value"):
                value = device.put(noise)
                keep.append(value)
                io.bind_ortvalue_input(f"past_key_values.{i}.{part}", value)
                io.bind_ortvalue_output(f"present.{i}.{part}", value)

        # Inputs
        angles = np.full((rows, 1, 1), spec.capacity) * spec.rope_theta ** (
            -np.arange(0, spec.head_dim, 2) / spec.head_dim
        )
        feeds = {
            "input_ids": rng.integers(0, config.vocab_size, (rows, 1)),
            "audio_embeds": rng.standard_normal((rows, 1, config.hidden_size), np.float32).astype(
                np.float16
            ),
            "num_delay_tokens": np.full(rows, transcriber.num_delay_tokens, np.int64),
            "cos": np.cos(angles).astype(np.float16),
            "sin": np.sin(angles).astype(np.float16),
            "seqlens_k": np.full(rows, spec.keep, np.int32),
            "blank_penalty": np.zeros((rows, 1), np.float32),
        }
        for name, array in feeds.items():
            io.bind_ortvalue_input(name, device.put(array))
        io.bind_ortvalue_input(
            "total_sequence_length",
            ort.OrtValue.ortvalue_from_numpy(np.array(spec.capacity, np.int32)),
        )

        # Time the step, launched kernel by kernel and replayed
        output = device.put(np.zeros((rows, 1, 3), np.float32))
        io.bind_ortvalue_output("step", output)
        for name, label in (("anew", "-1"), ("replayed", str(next(device.capture_ids)))):
            options = ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", label)

            def step(io=io, options=options, output=output) -> None:
                session.ort.run_with_iobinding(io, options)
                output.numpy()

            results[f"{rows} rows, {name}"] = timed(step, 50)
        results[f"{rows} rows"] = {"finite": bool(np.isfinite(output.numpy()).all())}
        print(rows, results[f"{rows} rows, replayed"], flush=True)
        del io, keep, noise
    return results


def rows_ratio(results: dict[str, Any]) -> dict[str, Any]:
    """Return median times of replayed steps in fp16 over those in q4f16, where both are known."""
    fp16, q4f16 = (
        results.get(f"{name}, context {ROWS_CONTEXT}", {}).get("rows") for name in ("fp16", "q4f16")
    )
    if not fp16 or not q4f16:
        return {}
    names = [f"{rows} rows, replayed" for rows in ROWS]
    return {
        "fp16 over q4f16": {
            name: round(fp16[name]["p50"] / q4f16[name]["p50"], 2) for name in names
        }
    }


def profile(transcriber: Transcriber) -> dict[str, Any]:
    """Profile the kernels of a decoder step and of an encoder call of 16 tokens, both replayed."""
    encoder, decoder = transcriber.model.encoder, transcriber.model.decoder
    encoder_cache, decoder_cache = encoder.new_cache(), decoder.new_cache()
    for cache in (encoder_cache, decoder_cache):
        bench._fill(cache)
    embeds = np.ones((1, transcriber.manifest.config.decoder.hidden_size), decoder_cache.dtype)
    pad, delay = transcriber.manifest.tokens.streaming_pad, transcriber.num_delay_tokens
    noise = (
        np.random.default_rng(0)
        .standard_normal(len(bench._silence(transcriber, 16)))
        .astype(np.float32)
    )
    calls = {
        "decoder": placed(
            decoder_cache, 512, lambda: decoder.step(decoder_cache, [pad], embeds, delay)
        ),
        "encoder, 16 tokens": placed(
            encoder_cache, encoder_cache.spec.capacity, lambda: encoder.encode(encoder_cache, noise)
        ),
    }
    return {name: kernel_times(call) for name, call in calls.items()}


def kernel_times(call: Callable[[], Any], calls: int = 20) -> dict[str, Any]:
    """Return the microseconds of a call on the GPU, in all and by kernel.

    The span is from the start of the first kernel to the end of the last one; busy is the time in
    which kernels run. Kernels of less than a microsecond a call are left out of the list. The
    profiler itself makes the gaps between kernels longer.
    """
    import torch

    # Watch calls, after five that warm up
    time_calls(call, 5)
    torch.cuda.init()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            call()

    # Kernels in the order in which they ran, without copies
    ran = [
        event
        for event in profiler.events() or ()
        if event.device_type == torch.profiler.DeviceType.CUDA
    ]
    ran = sorted(
        (e for e in ran if not e.name.startswith("Memcpy")),
        key=lambda event: event.time_range.start,
    )

    # Times of the whole call, and of each kernel
    size = len(ran) // calls
    spans = [
        ran[i + size - 1].time_range.end - ran[i].time_range.start
        for i in range(0, size * calls, size)
    ]
    kernels: dict[str, list[float]] = {}
    for event in ran:
        kernels.setdefault(event.name, []).append(event.time_range.elapsed_us())
    return {
        "span_microseconds": round(float(np.median(spans)), 1),
        "busy_microseconds": round(sum(map(sum, kernels.values())) / calls, 1),
        "launches": len(ran) / calls,
        "kernels": [
            {
                "kernel": name[:160],
                "microseconds": round(sum(times) / calls, 2),
                "launches": round(len(times) / calls, 2),
            }
            for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))
            if sum(times) >= calls
        ],
    }


def measure_artifact(
    artifact: Path, precision: str, context: int, parts: dict[str, Callable]
) -> dict[str, Any]:
    """Load an artifact and measure each part; read the device memory before, between and after.

    Args:
        artifact: folder of the artifact.
        precision: precision to load.
        context: positions of the decoder's window.
        parts: functions that measure a transcriber, by their name in the results.
    """
    result: dict[str, Any] = {"precision": precision, "context": context}
    began = perf_counter()
    with Transcriber(artifact, "cuda", precision=precision, context=context) as transcriber:
        device = transcriber.device
        result["load_seconds"] = round(perf_counter() - began, 2)
        result["device_memory_loaded"] = device.taken_memory()
        began = perf_counter()
        bench._first_step(transcriber)
        result["first_step_seconds"] = round(perf_counter() - began, 2)
        result["device_memory_with_a_stream"] = device.taken_memory()
        for name, part in parts.items():
            result[name] = part(transcriber)
            print(precision, context, name, json.dumps(result[name])[:1500], flush=True)
        result["device_memory_at_the_end"] = device.taken_memory()
    return result


def main(
    artifact: Annotated[
        Path, typer.Argument(help="Full-size artifact with q4f16 and, to compare, fp16.")
    ],
    cpu_precision: Annotated[
        str, typer.Option(help="Precision to measure on the CPU too; empty for none.")
    ] = "",
    parts: Annotated[
        str, typer.Option(help="Parts to measure, comma-separated.")
    ] = "start,steps,clips,live,rows,profile",
    out: harness.Out = harness.RESULTS / "gpu_speed.json",
) -> None:
    """Measure the parts that are named."""
    results = harness.describe("random weights of the 4B model's shapes; milliseconds and bytes")
    results["environment"] = {
        name: value for name, value in os.environ.items() if name.startswith("ORT_")
    }

    # Plan one measurement for each precision and context
    chosen = parts.split(",")
    known = {
        "steps": measure_steps,
        "clips": measure_clips,
        "live": measure_live,
        "rows": measure_rows,
        "start": measure_start,
    }

    def plan(folder: Path, precision: str, context: int, *names: str) -> Callable[[], Any] | None:
        taken = {name: known[name] for name in names if name in chosen}
        return (lambda: measure_artifact(folder, precision, context, taken)) if taken else None

    plans: dict[str, Callable[[], Any] | None] = {
        "q4f16": plan(artifact, "q4f16", DEFAULT_CONTEXT, "start", "steps", "clips", "live"),
        "q4f16, context 1024": plan(artifact, "q4f16", ROWS_CONTEXT, "steps", "live", "rows"),
        "fp16": plan(artifact, "fp16", DEFAULT_CONTEXT, "steps"),
        "fp16, context 1024": plan(artifact, "fp16", ROWS_CONTEXT, "rows"),
    }
    if "profile" in chosen:
        plans["profile"] = lambda: measure_artifact(
            artifact, "q4f16", ROWS_CONTEXT, {"kernels": profile}
        )
    if cpu_precision:
        options = {"device": "cpu", "precision": cpu_precision}
        plans[f"{cpu_precision} on the CPU"] = lambda: asdict(
            bench.measure(artifact, {**options, "threads": None}, CLIP, 1, True)
        )

    # Measure, and write after each one
    for name, measure in plans.items():
        if measure is None:
            continue
        began = perf_counter()
        try:
            results[name] = measure()
        except VoxtralOnnxError as error:
            results[name] = {"error": str(error)}
        print(
            f"{name}: {perf_counter() - began:.1f} s {results[name].get('error', '')}", flush=True
        )
        harness.write(out, results | rows_ratio(results))


if __name__ == "__main__":
    harness.run(main)
