"""Measure how much quantisation methods and recipes lose on the tiny checkpoint.

The loss is measured in weights, in logits, in decisions between blank and word, and in words.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/quant.py

Each row of the results is an artifact made by `export` (q4: activations in float32). It transcribes
held-out sentences of the model's domain, which wer.py synthesizes: many for shipped recipes, few
for the others, because encoding seven clips takes a second of one core. Logits are compared while
every model is fed the tokens that float32 samples; words are those that each generates by itself. A
profile shows which parts of the model flip decisions between blank and word, on the clips where
float32's decisions are closest. Prints Markdown tables and writes results/quant.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
import wer
from quant_cases import TABLE, Case, weight_errors, words_row
from quant_clips import DELAY_MS, FIRM, ClipRun, Tally, is_firm_flip, measure_clip
from rich.progress import track

from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.verification.evaluation.rates import RESAMPLES, SEED

FLOAT, SHIPPED = "float32", ("default", "quality", "small", "q8")
NARROW = 5.0  # blank margin in logits; the profile measures the drift of margins below it
NARROWEST = 36  # clips of the profile, besides those in which `UNIFORM` flips a firm decision


def uniform(method: str, bits: int = 4, block_size: int = 32) -> Case:
    """Return a case of one method for all layers.

    The tied embedding table cannot have zero points, so its method is the symmetric variant.
    """
    table = method.replace("_asymmetric", "_symmetric")
    rules = ((TABLE, bits, block_size, table), ("*", bits, block_size, method))
    return Case(f"{method} {bits} bits, blocks of {block_size}", rules)


UNIFORM = uniform("rtn_asymmetric")
REFITTED = Case(
    "layers refitted, 4 bits", ((TABLE, 4, 32, "rtn_symmetric"), ("*", 4, 32, "refit_asymmetric"))
)
LONG = (FLOAT, "default", UNIFORM.name, REFITTED.name, "quality", "q8")  # over all sentences
CASES = (
    *(Case(name) for name in SHIPPED),
    *(
        uniform(f"{name}_{symmetry}")
        for name in ("rtn", "refit")
        for symmetry in ("symmetric", "asymmetric")
    ),
    *(
        uniform(f"{name}_asymmetric", block_size=size)
        for size in (64, 128)
        for name in ("rtn", "refit")
    ),
    *(uniform(f"{name}_asymmetric", bits=8) for name in ("rtn", "refit")),
    REFITTED,
)


PARTS = {
    "encoder attention": "audio_tower.layers.*.self_attn.*",
    "encoder MLP": "audio_tower.layers.*.mlp.*",
    "adapter": "multi_modal_projector.*",
    "decoder attention": "language_model.layers.*.self_attn.*",
    "decoder MLP": "language_model.layers.*.mlp.*",
    "table": TABLE,
}


def in_bits(bits: int, *parts: str, block_size: int = 32, method: str = "rtn_symmetric") -> tuple:
    """Return recipe rules that quantise these PARTS of the model to `bits` bits."""
    return tuple((PARTS[part], bits, block_size, method) for part in parts)


ENCODER = ("encoder attention", "encoder MLP")
PROFILE = (  # rows after UNIFORM
    *(Case(f"{part} in 8 bits", (*in_bits(8, part), *UNIFORM.rules)) for part in PARTS),
    *(
        Case(
            f"{part} alone in 4 bits",
            in_bits(4, part, method=f"rtn_{'' if part == 'table' else 'a'}symmetric"),
        )
        for part in PARTS
    ),
    Case("encoder and adapter in 8 bits", (*in_bits(8, *ENCODER, "adapter"), *UNIFORM.rules)),
    Case(
        "encoder attention and adapter in 8 bits",
        (*in_bits(8, "encoder attention", "adapter"), *UNIFORM.rules),
    ),
    Case(
        "adapter in 8 bits, encoder refitted in blocks of 16",
        (
            *in_bits(8, "adapter"),
            *in_bits(4, *ENCODER, block_size=16, method="refit_asymmetric"),
            *UNIFORM.rules,
        ),
    ),
)


def choose_narrow(found: list[dict[str, ClipRun]]) -> list[int]:
    """Return the indices of the clips for the profile.

    They are those with the smallest margins among firm decisions, and those in which UNIFORM flips
    a firm decision.
    """

    def narrowest(runs: dict[str, ClipRun]) -> float:
        certainty = np.abs(runs[FLOAT].margins)
        return float(certainty[certainty > FIRM].min(initial=np.inf))

    order = sorted(range(len(found)), key=lambda i: narrowest(found[i]))
    flipped = (i for i, runs in enumerate(found) if runs[UNIFORM.name].tally.firm_flips)
    return sorted({*order[:NARROWEST], *flipped})


def profile_row(name: str, runs: list[dict[str, ClipRun]]) -> dict[str, Any]:
    """Return the row of the profile for one case: how it changes the blank decisions of clips."""
    margins, expected = (
        np.concatenate([row[key].margins for row in runs]) for key in (name, FLOAT)
    )
    narrow = np.abs(expected) < NARROW
    return {
        "name": name,
        "narrow_drift": round(float(np.sqrt(np.mean((margins - expected)[narrow] ** 2))), 3),
        "flips": int(((margins > 0) != (expected > 0)).sum()),
        "firm_flips": int(is_firm_flip(margins, expected).sum()),
    }


def list_firm_flips(
    clips: list[wer.Clip], found: list[dict[str, ClipRun]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each firm decision that UNIFORM flips.

    It has the clip and the position, the margin in each artifact, and texts that differ from
    float32's.
    """
    for clip, runs in zip(clips, found, strict=True):
        for at in np.flatnonzero(is_firm_flip(runs[UNIFORM.name].margins, runs[FLOAT].margins)):
            yield {
                "sentence": clip.text,
                "voice": f"{clip.synthesizer} {clip.voice}",
                "token": int(at),
                "margins": {name: round(float(runs[name].margins[at]), 3) for name in LONG},
                "written": {
                    name: runs[name].text for name in LONG if runs[name].text != runs[FLOAT].text
                },
            }


def render_table(rows: list[dict[str, Any]]) -> str:
    """Return all rows as a Markdown table."""
    columns = {
        "weight error": lambda row: " / ".join(
            f"{row[key]:.4f}" for key in row if key.startswith("error_")
        ),
        "s per GB": lambda row: f"{row['seconds_per_gb']:.1f}" if "seconds_per_gb" in row else "",
        "MB": lambda row: f"{row['bytes'] / 1e6:.1f}",
        "KL": lambda row: f"{row['logit_kl']:.2g}",
        "margin drift": lambda row: f"{row['margin_drift']:.3f}",
        "flips": lambda row: f"{row['flips']} ({row['firm_flips']} firm)",
        "tokens": lambda row: f"{row['token_agreement']:.2f} %",
        "WER": lambda row: (
            f"{row['wer']:.2f} ({' to '.join(f'{x:.2f}' for x in row['wer_interval'])})"
        ),
        "to float32": lambda row: (
            f"{row['difference']:+.2f} "
            f"({' to '.join(f'{x:+.2f}' for x in row['difference_interval'])})"
        ),
    }
    lines = [f"| | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    lines += [
        f"| {row['name']} | {' | '.join(cell(row) for cell in columns.values())} |" for row in rows
    ]
    return "\n".join(lines)


def main(
    sentences: Annotated[
        int, typer.Option(min=1, help="Sentences for shipped recipes, each by 3 voices.")
    ] = 287,
    few: Annotated[int, typer.Option(min=1, help="Sentences for all other recipes.")] = 20,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of processes of one thread.")
    ] = os.cpu_count() or 1,
    cache_folder: Annotated[
        Path, typer.Option("--cache", help="Folder for the WAVs and the artifacts.")
    ] = harness.BUILD / "quant",
    out: harness.Out = harness.RESULTS / "quant.json",
) -> None:
    """Measure every method and recipe on the tiny checkpoint."""
    # Plan clips, and export every case
    versions = wer.find_synthesizers()
    measured = (
        f"q4 artifacts of the tiny checkpoint against float32, delay {DELAY_MS} ms; intervals hold "
        "95 %"
    )
    results = harness.describe(measured, "soxr", "soundfile", "jiwer")
    from voxtral_onnx import export  # here, as the workers import this file and need no torch
    from voxtral_onnx.assets import TINY

    cache_folder.mkdir(parents=True, exist_ok=True)
    domain = [sentence for sentence in wer.read_sentences(sentences) if sentence[0] == "domain"]
    clips = wer.plan_clips(domain, cache_folder / "wav", versions)
    checkpoint = open_checkpoint(TINY)
    recipes = {case.name: case.recipe(cache_folder) for case in CASES}
    folders = [export("tiny", cache_folder / FLOAT, precisions=("fp32",))]
    for name, recipe in track(recipes.items(), "exporting", console=harness.stderr):
        folders.append(export("tiny", cache_folder / name, precisions=("q4",), recipe=recipe))
    long = [folder for folder in folders if folder.name in LONG]

    # Speak and transcribe; torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:

        def run(what: str, function, *arguments) -> list:
            results = pool.map(function, *arguments, chunksize=4)
            return list(track(results, what, len(clips), console=harness.stderr))

        run("speaking", wer.speak, clips)
        voices = len(wer.VOICES)
        run_folders = [folders if i < few * voices else long for i in range(len(clips))]
        found = run("transcribing", measure_clip, run_folders, clips)

        # Transcribe the profile's clips with the profile's cases
        narrow = choose_narrow(found)
        parts = [
            export("tiny", cache_folder / "profile" / name, precisions=("q4",), recipe=recipe)
            for name, recipe in ((case.name, case.recipe(cache_folder)) for case in PROFILE)
        ]
        runs = list(
            pool.map(measure_clip, [[folders[0], *parts]] * len(narrow), [clips[i] for i in narrow])
        )
    runs = [found[i] | row for i, row in zip(narrow, runs, strict=True)]
    profile = [
        profile_row(case.name, runs) for case in (UNIFORM, *PROFILE, REFITTED, Case("default"))
    ]

    # Sum up each case
    rows = []
    for folder in folders:
        name, tally = folder.name, Tally()
        measured = [i for i, cases in enumerate(found) if name in cases]
        for i in measured:
            tally.add(found[i][name].tally)
        row = {"name": name} | (weight_errors(recipes[name], checkpoint) if name in recipes else {})
        row["bytes"] = sum(path.stat().st_size for path in (folder / "onnx").iterdir())
        texts = [[found[i][FLOAT].text, found[i][name].text] for i in measured]
        rows.append(row | tally.row() | words_row([clips[i] for i in measured], texts))

    # Print and write
    print(render_table(rows))
    headings = ("", "margin drift", "flips", "firm")
    print(markdown_table(headings, [tuple(map(str, row.values())) for row in profile]))
    results |= {
        "checkpoint": Manifest.read(folders[0]).fingerprint,
        "clips_sha256": wer.hash_clips(clips),
        "firm": FIRM,
        "bootstrap": {"unit": "clip", "resamples": RESAMPLES, "seed": SEED},
        "results": rows,
        "profile": {"clips": len(narrow), "narrow": NARROW, "results": profile},
        "firm_flips": list(list_firm_flips(clips, found)),
    }
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
