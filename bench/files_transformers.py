"""Measure transformers on the files of files.py, on the same device.

    python bench/files_transformers.py
    python bench/files_transformers.py --small --device cpu --batch-sizes 1,2 --seconds 4

The model has the released configuration and random weights, so nothing is downloaded; audio is
padded as by its processor, which would need mistral-common. After the prompt all positions take
about the same time, which grows slowly with the cache: by default it is measured on the first ones
and multiplied, in favour of transformers. `--positions 0` runs the files to their end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import harness
import numpy as np
import soundfile
import torch
import typer
from sounds import RATE, write_files
from transformers import (
    VoxtralRealtimeConfig,
    VoxtralRealtimeFeatureExtractor,
    VoxtralRealtimeForConditionalGeneration,
)

PER_TOKEN = 1280  # samples
LEFT, RIGHT, DELAY = 32, 11, 6  # tokens of silence before and after, and of delay
BOS, PAD = 1, 32
FIRST = 20  # positions of the shorter run; the difference to the longer one is multiplied
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def make_model(small: bool, device: str, dtype: torch.dtype) -> Any:
    """Return a model with random weights that never ends a text early."""
    stack: dict[str, Any] = SMALL if small else {}
    vocab: dict[str, Any] = {"vocab_size": 512} if small else {}
    config = VoxtralRealtimeConfig(audio_config={**stack}, text_config={**stack, **vocab})
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = VoxtralRealtimeForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    return model


def generate(model: Any, paths: Sequence[Path], positions: int | None) -> float:
    """Return the seconds from the paths to so many tokens of each file; None for all."""
    began = perf_counter()
    padded = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        behind = -len(samples) % PER_TOKEN + (DELAY + RIGHT) * PER_TOKEN
        padded.append(np.pad(samples, (LEFT * PER_TOKEN, behind)))
    extractor = VoxtralRealtimeFeatureExtractor()
    features = extractor(padded, sampling_rate=RATE, return_tensors="pt")["input_features"]
    prompt = torch.full((len(paths), 1 + LEFT + DELAY), PAD, device=model.device)
    prompt[:, 0] = BOS
    with torch.inference_mode():
        ids = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            input_features=features.to(model.device, model.dtype),
            num_delay_tokens=DELAY,
            do_sample=False,
            **({"max_new_tokens": positions} if positions else {}),
        )
    generated = ids.cpu().shape[1] - prompt.shape[1]
    assert generated == (positions or num_positions(features)), "a text has ended early"
    return perf_counter() - began


def num_positions(features: torch.Tensor) -> int:
    """Return how many tokens are generated for features [files, bins, frames]."""
    return features.shape[2] * 160 // PER_TOKEN - (1 + LEFT + DELAY)


def measure(model: Any, paths: Sequence[Path], seconds: float, positions: int) -> dict[str, Any]:
    """Time one batch of files, in whole or by their first positions."""
    is_cuda = model.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    generate(model, paths, 5)
    total = -(-round(seconds * RATE) // PER_TOKEN) + RIGHT - 1
    if positions:
        short, longer = (generate(model, paths, count) for count in (FIRST, FIRST + positions))
        step = (longer - short) / positions
        wall = short + (total - FIRST) * step
    else:
        wall = generate(model, paths, None)
        step = wall / total
    return {
        "files": len(paths),
        "wall": round(wall, 2),
        "audio_seconds_a_second": round(len(paths) * seconds / wall, 1),
        "milliseconds_a_position": round(1000 * step, 2),
        "positions": total,
        "timed_positions": positions or total,
        "device_memory": torch.cuda.max_memory_allocated() if is_cuda else None,
    }


def main(
    device: Annotated[str, typer.Option(help="PyTorch's name of the device.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="PyTorch's name of the type.")] = "bfloat16",
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1,16,64",
    seconds: Annotated[float, typer.Option(help="Length of each file.")] = 60.0,
    positions: Annotated[int, typer.Option(help="Timed positions; 0 for whole files.")] = 100,
    small: Annotated[bool, typer.Option("--small", help="A tiny model, to try it out.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where to keep the WAV files; by default they are deleted.")
    ] = None,
    out: harness.Out = harness.RESULTS / "files_transformers.json",
) -> None:
    """Measure each batch size, and write the results after each one."""
    results = harness.describe(
        "transformers on files of files.py; seconds, and bytes of memory", "transformers", "torch"
    )
    results |= {"dtype": dtype, "small": small, "batch_sizes": {}}
    with tempfile.TemporaryDirectory() as scratch:
        wav = folder or Path(scratch)
        wav.mkdir(parents=True, exist_ok=True)
        began = perf_counter()
        model = make_model(small, device, getattr(torch, dtype))
        print(f"made in {perf_counter() - began:.1f} s", flush=True)
        for size in map(int, batch_sizes.split(",")):
            paths = write_files(wav, size, seconds)
            row = harness.attempt(measure, model, paths, seconds, positions)
            results["batch_sizes"][str(size)] = row
            print(f"{dtype}, batch size {size}: {row}", flush=True)
            harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
