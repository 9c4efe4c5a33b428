"""Measure word error rates of the tiny checkpoint in fp32, q4 and q4f16 at each trained delay.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/wer.py

Synthesizes the held-out sentences with three speech synthesizers, transcribes every clip in every
setting, prints Markdown tables and writes results/wer.json. Intervals are 95 % percentile intervals
of a bootstrap over clips; each resample is the same for all settings, so that differences between
precisions are paired.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from rich.progress import track

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import DeviceError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.verification.evaluation.rates import (
    RESAMPLES,
    SEED,
    count_errors,
    interval,
    resample_rates,
)
from voxtral_onnx.verification.text_metrics import normalize

SENTENCES = harness.ROOT / "assets" / "tiny" / "heldout.tsv"
PRECISIONS = ("fp32", "q4", "q4f16")  # the others are compared with the first
DELAYS_MS = (240, 480, 960)  # those the checkpoint was trained with
SETTINGS = [(precision, delay_ms) for precision in PRECISIONS for delay_ms in DELAYS_MS]
VOICES = {
    "espeak-ng": (
        "en-us",
        "en-gb+f2",
        "en-us+m3",
        "en-gb-scotland+m7",
        "en-us+f4",
        "en-gb-x-rp+m1",
    ),
    "flite": ("awb", "rms", "slt", "kal16"),
    "hibari-tts": ("heart",),  # the one voice inside the package
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A sentence that one voice speaks."""

    kind: str  # domain or free
    text: str
    synthesizer: str
    voice: str
    path: Path


def plan_clips(
    sentences: Iterable[tuple[str, str]], folder: Path, versions: dict[str, str]
) -> list[Clip]:
    """Return the clips of sentences, with each synthesizer's voices in rotation.

    Domain sentences are spoken by all synthesizers, free ones by one each.
    """
    clips = []
    seen: Counter[str] = Counter()
    for kind, text in sentences:
        turn = seen[kind]
        seen[kind] += 1
        names = list(VOICES)
        if kind == "free":
            turn, name = divmod(turn, len(names))
            names = [names[name]]
        for name in names:
            voice = VOICES[name][turn % len(VOICES[name])]
            file = hashlib.sha256(text.encode()).hexdigest()[:16] + ".wav"
            clips.append(
                Clip(kind, text, name, voice, folder / f"{name}-{versions[name]}" / voice / file)
            )
    return clips


def read_sentences(limit: int | None) -> list[tuple[str, str]]:
    """Return kind and text of the held-out sentences, at most `limit` of each kind."""
    rows = [tuple(line.split("\t")) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    kinds = [[row for row in rows if row[0] == kind][:limit] for kind in ("domain", "free")]
    return [(kind, text) for rows in kinds for kind, text in rows]


def find_synthesizers() -> dict[str, str]:
    """Return the version of each synthesizer.

    Raises:
        DeviceError: a program, a package or a voice is missing. Voices are looked up because both
            programs silently speak with another voice where one is missing.
    """
    # Programs and packages
    modules = {
        "hibari": "hibari-tts",
        "jiwer": "jiwer",
        "onnx_ir": "'voxtral-onnx[export]'",
    }
    packages = sorted({package for module, package in modules.items() if find_spec(module) is None})
    programs = [program for program in ("espeak-ng", "flite") if shutil.which(program) is None]
    if programs or packages:
        commands = [("apt-get install", programs), ("pip install", packages)]
        lines = [f"\n  {command} {' '.join(names)}" for command, names in commands if names]
        raise DeviceError(f"missing: {', '.join(programs + packages)}; run:{''.join(lines)}")

    # Voices
    languages = set(ask("espeak-ng", "--voices=en").split())
    variants = set(re.findall(r"!v/(\S+)", ask("espeak-ng", "--voices=variant")))
    have = {
        "espeak-ng": {
            voice for voice in VOICES["espeak-ng"] if set(voice.split("+")[1:]) <= variants
        }
        & {voice for voice in VOICES["espeak-ng"] if voice.split("+")[0] in languages},
        "flite": set(ask("flite", "-lv").split()),
    }
    for program, voices in have.items():
        if absent := sorted(set(VOICES[program]) - voices):
            raise DeviceError(
                f"{program}: no voice {', '.join(absent)}; use Debian's package: apt-get install "
                f"{program}"
            )
    return {program: read_version(program) for program in have} | {
        "hibari-tts": metadata.version("hibari-tts")
    }


def ask(*command: str) -> str:
    """Return the standard output of a program; ignore its exit code, as flite's is always 1."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def read_version(program: str) -> str:
    """Return the version that a program prints.

    Raises:
        DeviceError: it prints none.
    """
    match = re.search(r"\d+(\.\d+)+", ask(program, "--version"))
    if match is None:
        raise DeviceError(
            f"{program}: --version names no version; use Debian's package: apt-get "
            f"install {program}"
        )
    return match.group()


def speak(clip: Clip) -> None:
    """Synthesize a clip's WAV unless it exists."""
    if clip.path.exists():
        return
    clip.path.parent.mkdir(parents=True, exist_ok=True)
    partial = clip.path.with_suffix(f".{os.getpid()}.partial")
    SPEAKERS[clip.synthesizer](clip, partial)
    partial.replace(clip.path)


def speak_espeak(clip: Clip, path: Path) -> None:
    """Synthesize a clip with espeak-ng into a WAV file."""
    subprocess.run(["espeak-ng", "-v", clip.voice, "-w", path, clip.text], check=True)


def speak_flite(clip: Clip, path: Path) -> None:
    """Synthesize a clip with flite into a WAV file."""
    subprocess.run(["flite", "-voice", clip.voice, "-t", clip.text, "-o", path], check=True)


def speak_hibari(clip: Clip, path: Path) -> None:
    """Synthesize a clip with hibari-tts into a WAV file."""
    load_hibari(clip.voice).save(clip.text, str(path), seed=SEED)


SPEAKERS: dict[str, Callable[[Clip, Path], None]] = {
    "espeak-ng": speak_espeak,
    "flite": speak_flite,
    "hibari-tts": speak_hibari,
}


@cache
def load_hibari(voice: str):
    """Return the synthesizer of hibari-tts, loaded once in each process."""
    from hibari import Hibari  # pyright: ignore[reportMissingImports]: of the extra `bench`

    return Hibari(voice)


@cache
def load_transcriber(artifact: Path, precision: str) -> Transcriber:
    """Return a transcriber of one thread, loaded once in each process."""
    return Transcriber(artifact, "cpu", precision=precision, threads=1)


def transcribe(artifact: Path, clip: Clip) -> list[str]:
    """Return the text of a clip in each setting."""
    transcribers = {precision: load_transcriber(artifact, precision) for precision in PRECISIONS}
    source = open_audio(clip.path, transcribers[PRECISIONS[0]].sample_rate)
    samples = np.concatenate(list(source.blocks()))  # read and resampled once for all settings
    return [
        transcribers[precision].transcribe(samples, delay_ms=delay_ms).text
        for precision, delay_ms in SETTINGS
    ]


def count_word_errors(clips: list[Clip], texts: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of errors [clips, settings] and of words in the references [clips]."""
    found = [
        [count_errors(clip.text, hypothesis) for hypothesis in hypotheses]
        for clip, hypotheses in zip(clips, texts, strict=True)
    ]
    errors = np.array([[each.word_errors for each in row] for row in found], float)
    return errors, np.array([row[0].words for row in found], float)


def summarize(
    kind: str, synthesizer: str, errors: np.ndarray, words: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield one row of results for each setting of these clips."""
    rates = 100 * errors.sum(0) / words.sum()
    resampled = resample_rates(errors, words)
    for column, (precision, delay_ms) in enumerate(SETTINGS):
        baseline = SETTINGS.index((PRECISIONS[0], delay_ms))
        row = {
            "kind": kind,
            "synthesizer": synthesizer,
            "precision": precision,
            "delay_ms": delay_ms,
            "clips": len(words),
            "words": int(words.sum()),
            "errors": int(errors[:, column].sum()),
            "wer": round(float(rates[column]), 3),
            "wer_interval": interval(resampled[:, column]),
        }
        if precision != PRECISIONS[0]:
            row["difference"] = round(float(rates[column] - rates[baseline]), 3)
            row["difference_interval"] = interval(resampled[:, column] - resampled[:, baseline])
        yield row


def render_table(rows: list[dict[str, Any]]) -> str:
    """Render the rows of one kind and synthesizer as a Markdown table.

    It has a line for each precision and a line for each difference.
    """
    first = rows[0]
    lines = [
        f"{first['kind']}, {first['synthesizer']}: {first['clips']} clips, {first['words']} words; "
        "WER in %",
        "",
        "| | " + " | ".join(f"{delay_ms} ms" for delay_ms in DELAYS_MS) + " |",
        "|---" * (1 + len(DELAYS_MS)) + "|",
    ]
    for precision in PRECISIONS:
        chosen = [row for row in rows if row["precision"] == precision]
        cells = [
            f"{row['wer']:.2f} ({' to '.join(f'{x:.2f}' for x in row['wer_interval'])})"
            for row in chosen
        ]
        lines.append(f"| {precision} | {' | '.join(cells)} |")
    for precision in PRECISIONS[1:]:
        chosen = [row for row in rows if row["precision"] == precision]
        cells = [
            f"{row['difference']:+.2f} "
            f"({' to '.join(f'{x:+.2f}' for x in row['difference_interval'])})"
            for row in chosen
        ]
        lines.append(f"| {precision} - {PRECISIONS[0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def hash_clips(clips: list[Clip]) -> str:
    """Return one sha256 over all WAVs in order: equal hashes mean that two runs had equal audio."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(clip.path.read_bytes())
    return digest.hexdigest()


def write_transcripts(path: Path, clips: list[Clip], texts: list[list[str]]) -> None:
    """Write a tab-separated table of every text that differs from its reference."""
    with path.open("w", encoding="utf-8") as file:
        for clip, hypotheses in zip(clips, texts, strict=True):
            for (precision, delay_ms), hypothesis in zip(SETTINGS, hypotheses, strict=True):
                if (found := normalize(hypothesis)) != (reference := normalize(clip.text)):
                    print(
                        clip.kind,
                        clip.synthesizer,
                        clip.voice,
                        precision,
                        delay_ms,
                        reference,
                        found,
                        sep="\t",
                        file=file,
                    )


def main(
    sentences: Annotated[
        int | None,
        typer.Option(min=len(VOICES), help="Number of sentences of each kind.", show_default="all"),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of processes of one thread.")
    ] = os.cpu_count() or 1,
    cache_folder: Annotated[
        Path, typer.Option("--cache", help="Folder for WAVs, the artifact and transcripts.tsv.")
    ] = harness.BUILD / "wer",
    out: harness.Out = harness.RESULTS / "wer.json",
) -> None:
    """Measure word error rates of the tiny checkpoint in fp32, q4 and q4f16."""
    # Plan clips and export
    versions = find_synthesizers()
    measured = (
        "word error rate of the tiny checkpoint's held-out sentences, in per cent; intervals hold "
        "95 %"
    )
    results = harness.describe(measured, "soxr", "soundfile", "jiwer")
    from voxtral_onnx import export  # here, as the workers import this file and need no torch

    clips = plan_clips(read_sentences(sentences), cache_folder / "wav", versions)
    artifact = export("tiny", cache_folder / "tiny-onnx", precisions=PRECISIONS)

    # Speak and transcribe; torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:

        def run(what: str, function: Callable, *arguments: Iterable) -> list:
            results = pool.map(function, *arguments, chunksize=4)
            return list(track(results, what, len(clips), console=harness.stderr))

        run("speaking", speak, clips)
        texts = run("transcribing", transcribe, [artifact] * len(clips), clips)

    # Count errors, by kind and synthesizer
    errors, words = count_word_errors(clips, texts)
    write_transcripts(cache_folder / "transcripts.tsv", clips, texts)

    rows = []
    for kind in ("domain", "free"):
        for synthesizer in ("all", *VOICES):
            chosen = [
                clip.kind == kind and synthesizer in ("all", clip.synthesizer) for clip in clips
            ]
            rows += summarize(kind, synthesizer, errors[chosen], words[chosen])
            print(render_table(rows[-len(SETTINGS) :]))
    results |= {
        "checkpoint": Manifest.read(artifact).fingerprint,
        "synthesizers": {
            name: {"version": versions[name], "voices": VOICES[name]} for name in VOICES
        },
        "clips_sha256": hash_clips(clips),
        "bootstrap": {"unit": "clip", "resamples": RESAMPLES, "seed": SEED},
        "difference": f"to {PRECISIONS[0]} at the same delay, paired by clip",
        "results": rows,
    }
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
