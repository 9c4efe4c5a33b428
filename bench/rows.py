"""What files cost that advance together: a decoder call by its rows, and how often a decision is made again.

    python bench/rows.py ARTIFACT [--precision q4f16]     # of the full-size twin that bench/twin.py writes
    python bench/rows.py ARTIFACT --precision q4f16,fp32 --results results/rows_tiny.json

Calls with one row and with several are timed in turn; of several precisions, which stand in memory together, too, with
the ratio of the others' times to the first's. On the samples of the embedded model, in its shipped precisions,
the decisions that a batch leaves to a call of a single row are counted, and the tokens that differ from those of a
stream by itself. Writes results/rows.json.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
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


class TimedCalls:
    """Decoder calls of one precision with so many rows."""

    def __init__(self, transcriber: Transcriber):
        """Buffers for the most rows, all at POSITION."""
        self.transcriber, decoder = transcriber, transcriber.decoder
        self.rows = decoder.new_rows(max(ROWS))
        self.caches = [self.rows.cache(row) for row in range(max(ROWS))]
        self.embeds = np.zeros((max(ROWS), transcriber.manifest.config.decoder.hidden_size), self.caches[0].dtype)
        self.times: dict[int, list[tuple[float, float]]] = {count: [] for count in ROWS}
        for cache in self.caches:
            cache.position = POSITION

    def run(self, count: int) -> None:
        """Make and time one call."""
        transcriber, blank = self.transcriber, self.transcriber.manifest.tokens.streaming_pad
        delays = [transcriber.num_delay_tokens] * count
        same = [blank] * count, self.embeds[:count], delays, [0.0] * count, [None] * count
        began, busy = perf_counter(), process_time()
        transcriber.decoder.step_rows(self.rows, self.caches[:count], *same)
        self.times[count].append((1000 * (perf_counter() - began), 1000 * (process_time() - busy)))

    def milliseconds(self) -> dict[int, dict[str, float]]:
        """Time of a call by its rows, and processor time, which other work on the machine changes less."""
        results = {}
        for count, pairs in self.times.items():
            elapsed, busy = zip(*pairs[1:], strict=True)  # the first touches memory
            results[count] = {"min": min(elapsed), "median": median(elapsed), "processor": median(busy)}
        return results


def call_milliseconds(artifact: str, precisions: list[str], rounds: int) -> dict[str, dict[int, dict[str, float]]]:
    """Of each precision, in turn."""
    with ExitStack() as stack:
        loaded = [Transcriber(artifact, "cpu", precision=name, context=CONTEXT) for name in precisions]
        calls = [TimedCalls(stack.enter_context(transcriber)) for transcriber in loaded]
        for _ in range(rounds + 1):
            for count in ROWS:
                for timed in calls:
                    timed.run(count)
        return {name: timed.milliseconds() for name, timed in zip(precisions, calls, strict=True)}


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


def rounded(calls: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """As results are written."""
    return {count: {kind: round(ms, 2) for kind, ms in times.items()} for count, times in calls.items()}


def measure(
    artifact: Annotated[str, typer.Argument(help="Of the 4B model's shape.")],
    precision: Annotated[str, typer.Option(help="Of the artifact; others to compare behind a comma.")] = "q4f16",
    rounds: Annotated[int, typer.Option(help="Of timed calls.")] = 15,
    results_file: Annotated[Path, typer.Option("--results")] = RESULTS,
) -> None:
    """Measure and print milliseconds a token."""
    machine = describe_machine()
    precision, *others = precision.split(",")
    measured = call_milliseconds(artifact, [precision, *others], rounds)
    calls = measured.pop(precision)
    counted = {name: decisions(name) for name in ("q4f16", "q4")}
    again = counted["q4f16"]["made_again"] / counted["q4f16"]["decisions"]

    def token(kind: str) -> dict[int, float]:
        """Milliseconds, with the calls that make decisions again."""
        return {n: round(calls[n][kind] / n + (again * calls[1][kind] if n > 1 else 0), 1) for n in ROWS}

    results = {
        "machine": machine,
        "precision": precision,
        "position": POSITION,
        "call_ms": rounded(calls),
        "samples": counted,
        "ms_per_token": {kind: token(kind) for kind in ("min", "median", "processor")},
        "gain": {kind: {n: round(token(kind)[1] / token(kind)[n], 2) for n in ROWS} for kind in ("min", "processor")},
    }
    for name, times in measured.items():
        ratio = {n: {kind: round(ms / calls[n][kind], 2) for kind, ms in values.items()} for n, values in times.items()}
        results[name] = {"call_ms": rounded(times), f"times_{precision}": ratio}
    results_file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    typer.run(measure)
