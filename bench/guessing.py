"""What guessing blanks brings: what a decoder call of several rows costs, and how many calls files then take.

    python bench/guessing.py ARTIFACT [--precision q4f16] [--device cuda]     # full-size, or skeleton.py's

A call of several rows is timed against one of a single row, in turn. How often guesses are right is counted on the
samples of the embedded model. Their product is the time of a token by the number of guesses. Writes
results/guessing.json, one entry a device.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import numpy as np
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime import transcribe
from voxtral_onnx.runtime.bench import SAMPLES, describe_machine
from voxtral_onnx.runtime.decoder import Decoder

RESULTS = Path(__file__).parent / "results" / "guessing.json"
ROWS = (1, 2, 3, 4, 6, 8)
ROUNDS = 15
POSITION = 512  # of the timed calls: 41 s of context


def call_milliseconds(artifact: str, precision: str, device: str) -> dict[int, float]:
    """Median time of a decoder call with so many rows."""
    with Transcriber(artifact, device, precision=precision) as transcriber:
        decoder, pad = transcriber.decoder, transcriber.manifest.tokens.streaming_pad
        cache = decoder.new_cache()
        embeds = np.zeros((max(ROWS), transcriber.manifest.config.decoder.hidden_size), cache.dtype)
        times: dict[int, list[float]] = {rows: [] for rows in ROWS}
        for _ in range(ROUNDS):
            for rows in ROWS:
                cache.position = POSITION
                began = perf_counter()
                decoder.step(cache, [pad] * rows, embeds[:rows], transcriber.num_delay_tokens)
                times[rows].append(1000 * (perf_counter() - began))
    return {rows: round(median(values), 2) for rows, values in times.items()}


def at_least(rows: int) -> int:
    """The next number of rows that is timed."""
    return min(timed for timed in ROWS if timed >= rows)


class CountedDecoder(Decoder):
    """Counts calls by their rows."""

    def __init__(self, decoder: Decoder):
        super().__init__(decoder.session, decoder.spec)
        self.calls: Counter[int] = Counter()

    def step(self, cache, token_ids, *arguments, **options):
        """As the decoder does it."""
        self.calls[len(token_ids)] += 1
        return super().step(cache, token_ids, *arguments, **options)


def calls_per_token(guessed: int) -> dict[int, float]:
    """Decoder calls by their rows, for each token of the samples; the prompt's are left out."""
    transcribe.GUESSED_BLANKS["cpu"] = guessed
    with Transcriber("tiny", "cpu", precision="q4") as transcriber:
        transcriber.stream()  # the silence before all audio, once
        transcriber.decoder = decoder = CountedDecoder(transcriber.decoder)
        clips = [transcriber.transcribe(path) for path in sorted(SAMPLES.glob("*.wav"))]
        tokens = sum(len(clip.token_ids) for clip in clips)
    return {rows: count / tokens for rows, count in decoder.calls.items() if rows <= 1 + guessed}


def measure(
    artifact: Annotated[str, typer.Argument(help="Of the 4B model's shape.")],
    precision: Annotated[str, typer.Option(help="Of the artifact.")] = "q4f16",
    device: Annotated[str, typer.Option(help="As transcribe takes it.")] = "cpu",
) -> None:
    """Measure both and print milliseconds a token."""
    times = call_milliseconds(artifact, precision, device)
    calls = {rows - 1: calls_per_token(rows - 1) for rows in ROWS}
    tokens = {
        guessed: round(sum(times[at_least(rows)] * share for rows, share in shares.items()), 2)
        for guessed, shares in calls.items()
    }
    results = {
        "machine": describe_machine(),
        "precision": precision,
        "call_ms": times,
        "calls_per_token": calls,
        "ms_per_token": tokens,
        "gain": {guessed: round(tokens[0] / ms, 3) for guessed, ms in tokens.items()},
    }
    written = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**written, device: results}, indent=1) + "\n")
    del results["machine"]
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(measure)
