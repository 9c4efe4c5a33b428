"""Time a token of the decoder and a call of the encoder of artifacts that differ in their blocks.

    python bench/block_speed.py ARTIFACT... [--out FILE]     # exports of twin.py's checkpoint in q4

All artifacts are loaded at once and called in turn, so that other load on the machine meets all of
them alike. Seconds are those of the clock and of the processor, whose ratio says how busy the
machine was. Writes results/block_speed.json.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any

import harness
import numpy as np
import typer

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.device.cache import KVCache
from voxtral_onnx.runtime.device.session import Session
from voxtral_onnx.runtime.encoder import Encoder

PRECISION, CHUNK = "q4", 16  # tokens of a call of the encoder


def decoder_call(folder: Path) -> Callable[[], object]:
    """Load a decoder, and return a function that runs its next token."""
    manifest = Manifest.read(folder)
    spec = manifest.caches["decoder"]
    session = Session(folder, manifest.precisions[PRECISION].decoder, "cpu")
    decoder, cache = Decoder(session, spec), KVCache(session, spec)
    embeds = np.zeros((1, manifest.config.decoder.hidden_size), np.float32)
    ids, delay = [manifest.tokens.bos], manifest.streaming.default_delay_tokens
    return lambda: decoder.step(cache, ids, embeds, delay)


def encoder_call(folder: Path) -> Callable[[], object]:
    """Load an encoder, and return a function that encodes the next CHUNK tokens."""
    manifest = Manifest.read(folder)
    mel = Session(folder, manifest.mel, "cpu")
    encoder = Encoder(manifest, mel, Session(folder, manifest.precisions[PRECISION].encoder, "cpu"))
    rules, per_token = manifest.streaming, manifest.config.audio.samples_per_token
    margin = rules.look_back_samples + rules.look_ahead_samples
    noise = np.random.default_rng(0).standard_normal(CHUNK * per_token + margin, np.float32)

    def call() -> np.ndarray:
        return encoder.encode(encoder.new_cache(), noise / 10)

    return call


def time_in_turn(calls: dict[str, Callable[[], object]], repeat: int) -> dict[str, Any]:
    """Return minimum and median milliseconds of each call, and those of the processor."""
    spent = {name: list[tuple[float, float]]() for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeat):
        for name, call in calls.items():
            began, busy = perf_counter(), process_time()
            call()
            spent[name].append((perf_counter() - began, process_time() - busy))
    found = {}
    for name, pairs in spent.items():
        clock, processor = (
            [1000 * seconds for seconds in each] for each in zip(*pairs, strict=True)
        )
        found[name] = {
            "min": round(min(clock), 1),
            "median": round(median(clock), 1),
            "processor_min": round(min(processor), 1),
            "processor_median": round(median(processor), 1),
        }
    return found


def main(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders.")],
    repeat: Annotated[int, typer.Option(help="Number of timed calls of each.")] = 30,
    out: harness.Out = harness.RESULTS / "block_speed.json",
) -> None:
    """Time all artifacts' decoders in turn, then their encoders."""
    results = harness.describe("milliseconds of a call, with an empty cache, by artifact")
    for stage, load in {"decoder": decoder_call, "encoder": encoder_call}.items():
        calls = {}
        for folder in artifacts:
            rules = Manifest.read(folder).precisions[PRECISION].recipe.rules
            calls[f"blocks of {rules[-1].block_size}"] = load(folder)
        results[stage] = time_in_turn(calls, repeat)
        results[f"{stage}_load_average"] = round(os.getloadavg()[0], 1)
        rows = [(name, *map(str, row.values())) for name, row in results[stage].items()]
        print(markdown_table((stage, "min", "median", "processor min", "median"), rows))
        del calls
        gc.collect()
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
