"""Measure what block sizes and rounding methods cost and lose, by parts of the model.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/frontier.py [--clips 215] [--plot docs/frontier.svg]

Each case is a q4 artifact of the tiny checkpoint, compared with float32 on held-out sentences as
quant.py does it, all cases on the same clips. Beside its loss stand the bytes that the 4B model's
kernels read for a token of the decoder and for a call of the encoder on a CPU: codes, and a float32
scale and sum a block, which set the time. Prints a Markdown table and writes results/frontier.json.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from math import log10, prod
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import harness
import numpy as np
import typer
import wer
from feedback import round_with_feedback, second_moments
from quant_cases import TABLE, Case, is_linear, tiny_error, words_row
from quant_clips import DELAY_MS, FIRM, Tally, measure_clip
from rich.progress import track
from twin import PARAMS

from voxtral_onnx.assets import SAMPLES, TINY
from voxtral_onnx.config import VoxtralConfig
from voxtral_onnx.exporter.binding import recipes
from voxtral_onnx.exporter.checkpoint.names import tensor_shapes
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.quant.blocks import Blocks, quantize_blockwise
from voxtral_onnx.quant.methods import METHODS, Method
from voxtral_onnx.quant.recipe import Rule, load_recipe
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.verification.evaluation.rates import RESAMPLES, SEED

FLOAT, FEEDBACK = "float32", "feedback_asymmetric"
METHODS[FEEDBACK] = Method(METHODS["refit_asymmetric"].choose, True, 10)
ADAPTER = ("multi_modal_projector.*", 8, 32, "rtn_symmetric")  # as in `default`
NARROW = 5.0  # blank margin in logits, below which its drift is measured
GROUPS = {
    "encoder": "audio_tower.*",
    "decoder attention": "language_model.layers.*.self_attn.*",
    "decoder MLP": "language_model.layers.*.mlp.*",
    "table": TABLE,
}
COLOURS = {
    "shipped": "#1565c0",
    "rtn": "#808080",
    "refit": "#2e7d32",
    "feedback": "#c62828",
    "default but": "#ef6c00",
}


def uniform(method: str, block_size: int) -> Case:
    """Return a case of one method and block size for all layers; the adapter has 8 bits."""
    table = "rtn_symmetric" if method.startswith("rtn") else "refit_symmetric"
    rules = (ADAPTER, (TABLE, 4, block_size, table), ("*", 4, block_size, method))
    return Case(f"{method}, {block_size}", rules)


def default_but(group: str, block_size: int) -> Case:
    """Return `default` with another block size in one part of the model."""
    method = "refit_symmetric" if group == "table" else "refit_asymmetric"
    default = tuple(
        (rule.tensors, rule.bits, rule.block_size, rule.method)
        for rule in load_recipe("default").rules
    )
    rules = ((GROUPS[group], 4, block_size, method), *default)
    return Case(f"default but {group} {block_size}", rules)


CASES = (
    *(Case(name) for name in ("default", "small", "quality", "q8", "gguf-q4_0")),
    *(
        uniform(method, block_size)
        for block_size in (32, 64, 128)
        for method in (
            "rtn_symmetric",
            "rtn_asymmetric",
            "refit_symmetric",
            "refit_asymmetric",
            FEEDBACK,
        )
    ),
    *(default_but(group, block_size) for block_size in (64, 128) for group in GROUPS),
)


def bytes_read(recipe: str) -> dict[str, float]:
    """Return the gigabytes of the 4B model's weights in a CPU's memory, by stack."""
    rules, found = load_recipe(recipe), {"decoder_gb": 0.0, "encoder_gb": 0.0}
    for name, shape in tensor_shapes(VoxtralConfig.from_params(PARAMS)).items():
        module = name.removesuffix(".weight")
        if not is_linear(module, shape):
            continue
        rule = rules.rule_for(module)
        weight_bytes = rule.bits / 8 + 8 / rule.block_size if rule else 4
        stack = "decoder_gb" if module.startswith("language_model") else "encoder_gb"
        found[stack] += prod(shape) * weight_bytes / 1e9
    return {name: round(value, 3) for name, value in found.items()}


def quantizer(moments: dict[str, np.ndarray]):
    """Return `quantize_blockwise`, which rounds with feedback where a rule's method is FEEDBACK."""

    def quantize(weight: np.ndarray, rule: Rule, name: str = "weight") -> Blocks:
        if rule.method == FEEDBACK and name in moments:
            return round_with_feedback(weight, rule, moments[name])
        return quantize_blockwise(weight, rule, name)

    return quantize


def feedback_seconds() -> float:
    """Return the CPU seconds of a core for a gigabyte of bfloat16 weights of the 4B model."""
    rng = np.random.default_rng(SEED)
    inputs = rng.standard_normal((2048, 3072), np.float32)
    weight, rule = rng.standard_normal((3072, 3072), np.float32), Rule("*", 4, 128, FEEDBACK)
    moments = inputs.T @ inputs / len(inputs)
    began = process_time()
    round_with_feedback(weight, rule, moments, 1024)
    return (process_time() - began) / (2 * weight.size) * 1e9


def picture(rows: list[dict[str, Any]]) -> str:
    """Return an SVG: the loss of each case over the bytes that a token of the decoder reads.

    `q8`, which is far from all others, is left out.
    """
    # Scales
    rows = [row for row in rows if row["name"] != "q8"]
    width, height, left, top = 640, 360, 60, 20
    x = [row["decoder_gb"] for row in rows]
    y = [log10(row["logit_kl"]) for row in rows]

    def place(row: dict[str, Any]) -> tuple[float, float]:
        across = (row["decoder_gb"] - min(x)) / (max(x) - min(x))
        up = (log10(row["logit_kl"]) - min(y)) / (max(y) - min(y))
        return left + 10 + across * (width - 20), top + 10 + (1 - up) * (height - 20)

    # Points, each with its name as a tooltip, and the names of shipped recipes
    marks = []
    for row in rows:
        across, down = place(row)
        kind = next((kind for kind in COLOURS if row["name"].startswith(kind)), "shipped")
        marks.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="5" fill="{COLOURS[kind]}">'
            f"<title>{row['name']}</title></circle>"
        )
        if kind == "shipped":
            anchor = "start" if across < width / 2 else "end"
            shift = 9 if across < width / 2 else -9
            lower = 14 if row["name"].startswith("gguf") else 0  # beside `default`
            marks.append(
                f'<text x="{across + shift:.1f}" y="{down + 4 + lower:.1f}" text-anchor="{anchor}">'
                f"{row['name']}</text>"
            )

    # Axes and legend
    legend = "".join(
        f'<circle cx="{left + width - 130}" cy="{top + 20 + 18 * i}" r="5" fill="{colour}"/>'
        f'<text x="{left + width - 118}" y="{top + 24 + 18 * i}">{kind}</text>'
        for i, (kind, colour) in enumerate(COLOURS.items())
    )
    axes = (
        f'<path fill="none" stroke="#808080" d="M{left} {top}v{height}h{width}"/>'
        f'<text x="{left}" y="{top + height + 20}">{min(x):.1f} GB</text>'
        f'<text x="{left + width}" y="{top + height + 20}" text-anchor="end">{max(x):.1f} GB a '
        f'token of the decoder</text><text x="{left - 5}" y="{top + height}" text-anchor="end">'
        f'{10 ** min(y):.0e}</text><text x="{left - 5}" y="{top + 14}" text-anchor="end">'
        f"{10 ** max(y):.0e}</text>"
        f'<text x="{left + 8}" y="{top + 14}">KL from float32, nats a token (logarithmic)</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + left + 20} '
        f'{height + top + 40}" font-family="sans-serif" font-size="13">{axes}{"".join(marks)}'
        f"{legend}</svg>\n"
    )


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the printed table."""
    low, high = row["difference_interval"]
    return (
        row["name"],
        f"{row['decoder_gb']:.2f} + {row['encoder_gb']:.2f}",
        f"{row['error_tiny']:.3f}" if "feedback" not in row["name"] else "–",
        f"{row['logit_kl'] * 1e4:.1f}",
        f"{row['narrow_drift']:.2f}",
        f"{row['flips']} ({row['firm_flips']})",
        f"{row['difference']:+.2f} ({low:+.2f} to {high:+.2f})",
    )


def main(
    clips: Annotated[int, typer.Option(min=1, help="Number of clips, of 861.")] = 861,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of processes of one thread.")
    ] = os.cpu_count() or 1,
    cache_folder: Annotated[
        Path, typer.Option("--cache", help="Folder for the WAVs and the artifacts.")
    ] = harness.BUILD / "quant",
    plot: Annotated[Path | None, typer.Option(help="SVG to draw.")] = None,
    out: harness.Out = harness.RESULTS / "frontier.json",
) -> None:
    """Measure every case on the tiny checkpoint."""
    # Choose clips, in which all voices and sentences take turns
    results = harness.describe(
        f"q4 artifacts of the tiny checkpoint against float32, delay {DELAY_MS} ms; intervals hold "
        "95 %"
    )
    from voxtral_onnx import export  # here, as the workers import this file and need no torch

    sentences = [each for each in wer.read_sentences(None) if each[0] == "domain"]
    planned = wer.plan_clips(sentences, cache_folder / "wav", wer.find_synthesizers())
    chosen = [planned[i] for i in np.linspace(0, len(planned) - 1, clips).round().astype(int)]

    # Export, with the second moments that the bundled recordings give
    folder = cache_folder / "frontier"
    folder.mkdir(parents=True, exist_ok=True)
    folders = [export("tiny", cache_folder / FLOAT, precisions=("fp32",))]
    recordings = sorted(SAMPLES.glob("*.wav"))
    recipes.quantize_blockwise = quantizer(
        harness.in_new_process(second_moments, folders[0], recordings)
    )
    for case in track(CASES, "exporting", console=harness.stderr):
        recipe = case.recipe(folder)
        folders.append(export("tiny", folder / case.name, precisions=("q4",), recipe=recipe))

    # Speak and transcribe
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(wer.speak, chosen, chunksize=4))
        runs = pool.map(measure_clip, [folders] * len(chosen), chosen, chunksize=2)
        found = list(track(runs, "transcribing", len(chosen), console=harness.stderr))

    # Sum up each case
    checkpoint, rows = open_checkpoint(TINY), []
    expected = np.concatenate([runs[FLOAT].margins for runs in found])
    narrow = np.abs(expected) < NARROW
    for case in CASES:
        recipe, tally = case.recipe(folder), Tally()
        for runs in found:
            tally.add(runs[case.name].tally)
        margins = np.concatenate([runs[case.name].margins for runs in found])
        drift = float(np.sqrt(np.mean((margins - expected)[narrow] ** 2)))
        texts = [[runs[FLOAT].text, runs[case.name].text] for runs in found]
        row = {"name": case.name} | bytes_read(recipe)
        row["error_tiny"] = float(f"{tiny_error(load_recipe(recipe), checkpoint):.4g}")
        rows.append(
            row | tally.row() | {"narrow_drift": round(drift, 3)} | words_row(chosen, texts)
        )

    # Print and write
    headings = ("", "GB", "weight error", "KL, 1e-4", "drift", "flips (sure)", "words wrong")
    print(markdown_table(headings, [cells(row) for row in rows]))
    results |= {
        "checkpoint": Manifest.read(folders[0]).fingerprint,
        "clips_sha256": wer.hash_clips(chosen),
        "firm": FIRM,
        "narrow": {"margin": NARROW, "positions": int(narrow.sum())},
        "bootstrap": {"unit": "clip", "resamples": RESAMPLES, "seed": SEED},
        "feedback": {
            "recordings": [path.name for path in recordings],
            "seconds_per_gb": round(feedback_seconds(), 1),
        },
        "results": rows,
    }
    harness.write(out, results)
    if plot:
        plot.write_text(picture(rows), "utf-8")


if __name__ == "__main__":
    harness.run(main)
