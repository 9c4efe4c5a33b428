"""A stream that never ends: memory over hours of audio, and the same text in chunks as in one piece.

    python bench/soak.py [--hours 3] [--model tiny] [--precision q4f16]

Clips of the embedded model in a drawn order, with pauses of up to 40 s of silence and noise between them, are fed in
chunks of drawn sizes; resident memory is read after every minute of audio. Then the same audio is transcribed as one
array. Ten minutes each of silence, noise, hum and chords follow, which hold no word. Writes results/soak.json and
results/soak.svg.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import soundfile
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.memory import resident_memory
from voxtral_onnx.runtime.bench import SAMPLES, describe_machine
from voxtral_onnx.runtime.segments import group

RESULTS = Path(__file__).parent / "results"
RATE = 16000
MAX_PAUSE = 40.0  # seconds: beyond the 16 s after which the blank guard begins
MAX_CHUNK = 2 * RATE  # samples
WARM_MINUTES = 15  # both windows of the 4B model, and more than those of tiny, are full


def speech(hours: float, seed: int = 0) -> Iterator[np.ndarray]:
    """Clips and pauses, exactly so many hours."""
    rng, left = np.random.default_rng(seed), int(hours * 3600 * RATE)
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
    while left:
        pause = rng.normal(0, rng.choice([0, 1e-4, 1e-3]), int(rng.uniform(0.2, MAX_PAUSE) * RATE)).astype(np.float32)
        for part in (clips[rng.integers(len(clips))], pause):
            yield part[:left]
            left -= len(part[:left])


def chunks(parts: Iterator[np.ndarray], seed: int = 1) -> Iterator[np.ndarray]:
    """The same samples in chunks of drawn sizes."""
    rng = np.random.default_rng(seed)
    for part in parts:
        while len(part):
            size = int(rng.integers(1, MAX_CHUNK))
            yield part[:size]
            part = part[size:]


def soundscape(name: str, seconds: float) -> np.ndarray:
    """Sound without speech."""
    rng, time = np.random.default_rng(2), np.arange(int(seconds * RATE)) / RATE
    match name:
        case "silence":
            return np.zeros(len(time), np.float32)
        case "noise":
            return rng.normal(0, 0.03, len(time)).astype(np.float32)
        case "hum":
            harmonics = np.arange(1, 6)
            return (0.1 * (np.sin(2 * np.pi * 50 * np.outer(time, harmonics)) / harmonics).sum(1)).astype(np.float32)
    chords = 220 * 2 ** (rng.integers(0, 24, (len(time) // (RATE // 2) + 1, 3)) / 12)  # a new one every half second
    frequencies = chords.repeat(RATE // 2, 0)[: len(time)]
    return (0.1 * np.sin(2 * np.pi * np.cumsum(frequencies, 0) / RATE).sum(1)).astype(np.float32)


def plot(memory: list[float], title: str) -> str:
    """Memory in MB over minutes as SVG."""
    top = 1.2 * max(memory)
    points = " ".join(f"{60 + 640 * i / len(memory):.1f},{220 - 190 * mb / top:.1f}" for i, mb in enumerate(memory))
    ticks = "".join(
        f'<text x="52" y="{224 - 190 * mb / top:.0f}" text-anchor="end">{mb:.0f}</text>'
        f'<path d="M60 {220 - 190 * mb / top:.0f}H700" stroke="#ddd"/>'
        for mb in np.linspace(0, max(memory), 4)
    )
    hours = "".join(
        f'<text x="{60 + 640 * minute / len(memory):.0f}" y="240" text-anchor="middle">{minute // 60} h</text>'
        for minute in range(0, len(memory) + 1, 60)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 260" font-family="sans-serif" font-size="12">'
        f'<rect width="720" height="260" fill="white"/><text x="60" y="18">{title}</text>{ticks}{hours}'
        f'<polyline points="{points}" fill="none" stroke="#3b6fb6" stroke-width="2"/></svg>\n'
    )


def soak(
    hours: Annotated[float, typer.Option(help="Of audio.")] = 3.0,
    model: Annotated[str, typer.Option(help="An artifact.")] = "tiny",
    precision: Annotated[str, typer.Option(help="Of the artifact.")] = "q4f16",
) -> None:
    """Run it."""
    with Transcriber(model, precision=precision, threads=1) as transcriber:
        stream, ids, memory, minute = transcriber.stream(), [], [], 0
        began = perf_counter()
        for chunk in chunks(speech(hours)):
            ids += [token.token_id for token in stream.feed(chunk)]
            if stream.num_samples >= (minute + 1) * 60 * RATE:
                minute = stream.num_samples // (60 * RATE)
                memory.append(resident_memory() / 1e6)
        ids += [token.token_id for token in stream.finish()]
        seconds = perf_counter() - began
        decoder, encoder = stream.decoder_cache, stream.encoder_cache
        whole = transcriber.stream()
        same = [token.token_id for token in whole.feed(np.concatenate(list(speech(hours)))) + whole.finish()]
        settled = memory[min(WARM_MINUTES, len(memory) // 2) :]
        results = {
            "machine": describe_machine(),
            "precision": precision,
            "hours": hours,
            "seconds": round(seconds, 1),
            "tokens_that_differ_in_one_piece": sum(a != b for a, b in zip(ids, same, strict=True)),
            "tokens": len(ids),
            "decoder_positions": decoder.position,
            "encoder_positions": encoder.position,
            "cache_moves": {
                name: (cache.position - cache.spec.capacity) // (cache.spec.capacity - cache.spec.keep) + 1
                for name, cache in (("encoder", encoder), ("decoder", decoder))
            },
            "blank_guard_fired": len(stream.overrides),
            "memory_mb": [round(mb, 1) for mb in memory],
            "memory_growth_mb": round(max(settled) - settled[0], 2),
            "words_a_minute": {},
        }
        for name in ("silence", "noise", "hum", "chords"):
            stream = transcriber.stream()
            tokens = stream.feed(soundscape(name, 600)) + stream.finish()
            words = "".join(segment.text for segment in group(iter(tokens), stream.ids)).split()
            results["words_a_minute"][name] = len(words) / 10
            results["words_a_minute"][f"{name}, by the guard"] = len(stream.overrides) / 10
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "soak.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "soak.svg").write_text(plot(memory, f"Resident MB over {hours:g} hours of audio, {precision}"))
    del results["machine"], results["memory_mb"]
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(soak)
