"""What files cost that advance together: a decoder call by its rows, and how often a decision is made again.

    python bench/rows.py ARTIFACT [--precision q4f16]     # of the full-size twin that bench/twin.py writes

Calls with one row and with several are timed in turn. On the samples of the embedded model, in its shipped precisions,
the decisions that a batch leaves to a call of a single row are counted, and the tokens that differ from those of a
stream by itself. Writes results/rows.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated

import numpy as np
import soundfile
import typer

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.bench import SAMPLES, describe_machine
from voxtral_onnx.runtime.decoder import Decoder

RESULTS = Path(__file__).parent / "results" / "rows.json"
ROWS = (1, 2, 4, 8)
CONTEXT = 1024
POSITION = 512  # of the timed calls: 41 s of context
TOGETHER = 4  # files, where decisions are counted


def call_milliseconds(artifact: str, precision: str, rounds: int) -> dict[int, dict[str, float]]:
    """Time of a decoder call with so many rows, and processor time, which other work on the machine changes less."""
    with Transcriber(artifact, "cpu", precision=precision, context=CONTEXT) as transcriber:
        decoder, blank = transcriber.decoder, transcriber.manifest.tokens.streaming_pad
        rows = decoder.new_rows(max(ROWS))
        caches = [rows.cache(row) for row in range(max(ROWS))]
        embeds = np.zeros((max(ROWS), transcriber.manifest.config.decoder.hidden_size), caches[0].dtype)
        times: dict[int, list[tuple[float, float]]] = {count: [] for count in ROWS}
        for cache in caches:
            cache.position = POSITION
        for _ in range(rounds + 1):
            for count in ROWS:
                began, busy = perf_counter(), process_time()
                delays = [transcriber.num_delay_tokens] * count
                same = [blank] * count, embeds[:count], delays, [0.0] * count, [None] * count
                decoder.step_rows(rows, caches[:count], *same)
                times[count].append((1000 * (perf_counter() - began), 1000 * (process_time() - busy)))
    results = {}
    for count, pairs in times.items():
        elapsed, busy = zip(*pairs[1:], strict=True)  # the first touches memory
        results[count] = {"min": min(elapsed), "median": median(elapsed), "processor": median(busy)}
    return results


class CountedDecoder(Decoder):
    """Counts decisions of calls with several rows, and those that a single row makes again."""

    def __init__(self, decoder: Decoder):
        super().__init__(decoder.session, decoder.spec)
        self.decisions = self.close = 0

    def step_rows(self, *arguments, **options):
        """As the decoder does it."""
        choices = super().step_rows(*arguments, **options)
        self.decisions += len(choices)
        self.close += sum(choice.is_close() for choice in choices)
        return choices


def decisions(precision: str) -> dict[str, int]:
    """Of the samples of the embedded model."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
    with Transcriber("tiny", "cpu", precision=precision, batch_size=TOGETHER) as transcriber:
        transcriber.decoder = decoder = CountedDecoder(transcriber.decoder)
        found = {round(16000 * t.duration): t.token_ids for t in transcriber.transcribe_many(clips)}
        different = 0
        for clip in clips:
            stream = transcriber.stream()
            tokens = [token.token_id for token in stream.feed(clip) + stream.finish()]
            different += sum(mine != token for mine, token in zip(found[len(clip)], tokens, strict=True))
    return {"decisions": decoder.decisions, "made_again": decoder.close, "tokens_that_differ": different}


def measure(
    artifact: Annotated[str, typer.Argument(help="Of the 4B model's shape.")],
    precision: Annotated[str, typer.Option(help="Of the artifact.")] = "q4f16",
    rounds: Annotated[int, typer.Option(help="Of timed calls.")] = 15,
) -> None:
    """Measure and print milliseconds a token."""
    machine = describe_machine()
    calls = call_milliseconds(artifact, precision, rounds)
    counted = {name: decisions(name) for name in ("q4f16", "q4")}
    again = counted["q4f16"]["made_again"] / counted["q4f16"]["decisions"]

    def token(kind: str) -> dict[int, float]:
        """Milliseconds, with the calls that make decisions again."""
        return {n: round(calls[n][kind] / n + (again * calls[1][kind] if n > 1 else 0), 1) for n in ROWS}

    results = {
        "machine": machine,
        "precision": precision,
        "position": POSITION,
        "call_ms": {n: {kind: round(ms, 1) for kind, ms in times.items()} for n, times in calls.items()},
        "samples": counted,
        "ms_per_token": {kind: token(kind) for kind in ("min", "median", "processor")},
        "gain": {kind: {n: round(token(kind)[1] / token(kind)[n], 2) for n in ROWS} for kind in ("min", "processor")},
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(measure)
