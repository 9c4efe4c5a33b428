"""Run one stream over hours of audio: watch its memory, and compare chunks with one array.

    python bench/soak.py [ARTIFACT] [--hours 3] [--precision fp32]

Sample clips in random order, with pauses of up to 40 s of silence or noise between them, are fed in
chunks of random sizes, and resident memory is read after every minute of audio. Then the same audio
is transcribed as one array, which should give the same tokens; the number of differing ones is
reported. Writes results/soak.json.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import harness
import numpy as np
import soundfile
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.assets import SAMPLES
from voxtral_onnx.memory import resident_memory

RATE = 16000
MAX_PAUSE = 40.0  # seconds: longer than the 16 s after which the blank guard begins
MAX_CHUNK = 2 * RATE  # samples
WARM_MINUTES = 15  # of audio, after which the windows of the 4B model and of tiny are full


def speech(hours: float, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield samples [n] of clips and pauses, together exactly `hours` long."""
    rng, left = np.random.default_rng(seed), int(hours * 3600 * RATE)
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
    while left:
        pause = rng.normal(
            0, rng.choice([0, 1e-4, 1e-3]), int(rng.uniform(0.2, MAX_PAUSE) * RATE)
        ).astype(np.float32)
        for part in (clips[rng.integers(len(clips))], pause):
            yield part[:left]
            left -= len(part[:left])


def chunks(parts: Iterator[np.ndarray], seed: int = 1) -> Iterator[np.ndarray]:
    """Yield the same samples in chunks of random sizes."""
    rng = np.random.default_rng(seed)
    for part in parts:
        while len(part):
            size = int(rng.integers(1, MAX_CHUNK))
            yield part[:size]
            part = part[size:]


def main(
    artifact: harness.Model = "tiny",
    hours: Annotated[float, typer.Option(min=0.05, help="Hours of audio.")] = 3.0,
    precision: Annotated[str, typer.Option(help="Precision of the artifact.")] = "fp32",
    out: harness.Out = harness.RESULTS / "soak.json",
) -> None:
    """Transcribe hours of audio in chunks and in one piece."""
    results = harness.describe(
        "one stream over hours of audio; memory in MB, read every minute of audio"
    )
    results |= measure(harness.find_model(artifact, precision), precision, hours)
    harness.write(out, results)
    del results["memory_mb"]  # a line for every minute
    print(json.dumps(results, indent=1))


def measure(artifact: Path, precision: str, hours: float) -> dict[str, Any]:
    """Transcribe the audio in chunks, then in one piece; return memory and differences."""
    with Transcriber(artifact, precision=precision, threads=1) as transcriber:
        # In chunks; ids are in an array because a list of them would take memory too
        stream = transcriber.stream()
        ids = array("i")
        memory = []
        minute = 0
        began = perf_counter()
        for chunk in chunks(speech(hours)):
            ids.extend(token.token_id for token in stream.feed(chunk))
            if stream.num_samples >= (minute + 1) * 60 * RATE:
                minute = stream.num_samples // (60 * RATE)
                memory.append(resident_memory() / 1e6)
        ids.extend(token.token_id for token in stream.finish())
        seconds = perf_counter() - began

        # In one piece
        same = array("i")
        whole = transcriber.stream()
        same.extend(
            token.token_id for token in whole.iter_feed(np.concatenate(list(speech(hours))))
        )
        same.extend(token.token_id for token in whole.iter_finish())

        # Compare
        caches = {"encoder": stream.encoder_cache, "decoder": stream.decoder_cache}
        settled = memory[min(WARM_MINUTES, len(memory) // 2) :]
        text = transcriber.tokenizer.decode(list(ids))
        return {
            "precision": precision,
            "hours": hours,
            "seconds": round(seconds, 1),
            "tokens": len(ids),
            "words": len(text.split()),
            "tokens_that_differ_in_one_piece": sum(a != b for a, b in zip(ids, same, strict=True)),
            "text_is_the_same_in_one_piece": text == transcriber.tokenizer.decode(list(same)),
            "positions": {name: cache.position for name, cache in caches.items()},
            "windows": {name: cache.spec.window for name, cache in caches.items()},
            "cache_moves": {
                name: (cache.position - cache.spec.capacity)
                // (cache.spec.capacity - cache.spec.keep)
                + 1
                for name, cache in caches.items()
            },
            "blank_guard_fired": len(stream.overrides),
            "memory_mb": [round(mb, 1) for mb in memory],
            "memory_spread_mb_when_warm": round(max(settled) - min(settled), 2),
            "memory_growth_mb_an_hour_when_warm": round(
                60 * float(np.polyfit(range(len(settled)), settled, 1)[0]), 3
            ),
        }


if __name__ == "__main__":
    harness.run(main)
