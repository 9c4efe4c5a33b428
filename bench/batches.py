"""Measure on tiny what batches, and draft tokens of files alone, do to texts.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/batches.py

Held-out sentences, as bench/wer.py speaks them, are transcribed in q4f16 and q4: one by one by a
position a call, the same with draft tokens, as files alone are, then eight and 64 at a time; then
as live streams, alone and 16 at a time in an engine. Tokens and words are compared with those of
files, or of streams, alone; intervals of word error rates are those of bench/wer.py. Writes
results/batches.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
import wer

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.runtime.tokens import Token
from voxtral_onnx.runtime.transcriber import NUM_DRAFT_TOKENS
from voxtral_onnx.verification.evaluation.rates import interval, resample_rates

CACHE = harness.BUILD / "wer" / "wav"
SYNTHESIZERS = ("espeak-ng", "flite")  # the quick ones
PRECISIONS = ("q4f16", "q4")
HEADINGS = ("files", "tokens other", "close decisions", "words wrong", "difference")


def transcribe(
    artifact: Path, precision: str, paths: list[Path], batch_size: int, drafts: int
) -> list[dict[str, Any]]:
    """Return token ids, text and close decisions of each file."""
    found, NUM_DRAFT_TOKENS["cpu"] = {}, drafts
    with Transcriber(artifact, "cpu", precision=precision, batch_size=batch_size) as transcriber:
        for transcript in transcriber.transcribe_many(map(str, paths)):
            batch = transcript.info["batch"]
            found[transcript.source.name] = {
                "ids": transcript.token_ids,
                "text": transcript.text,
                "close": batch["close_decisions"] if batch else 0,
            }
    return [found[str(path)] for path in paths]


def transcribe_live(
    artifact: Path, precision: str, paths: list[Path], count: int
) -> list[dict[str, Any]]:
    """Return the same of files that are fed to live streams 80 ms at a time, so many at once.

    One at a time is `Transcriber.stream`, several are streams of an engine.
    """
    with Transcriber(artifact, "cpu", precision=precision) as transcriber:
        piece = transcriber.manifest.config.audio.samples_per_token

        # Feed one file
        def read(path: Path) -> Iterator[np.ndarray]:
            samples = np.concatenate(list(open_audio(str(path), transcriber.sample_rate).blocks()))
            return (samples[at : at + piece] for at in range(0, len(samples), piece))

        def alone(path: Path) -> list[Token]:
            stream = transcriber.stream()
            return [token for each in read(path) for token in stream.feed(each)] + stream.finish()

        def together(path: Path) -> list[Token]:
            with engine.open() as stream:
                for each in read(path):
                    stream.feed(each)
                stream.finish()
                return list(stream.events)

        def found(tokens: list[Token]) -> dict[str, Any]:
            text = "".join(token.text for token in tokens).strip()
            return {"ids": tuple(token.token_id for token in tokens), "text": text, "close": 0}

        # Feed all
        if count == 1:
            return [found(alone(path)) for path in paths]
        with (
            Engine(transcriber, slots=count, most_streams=count) as engine,
            ThreadPoolExecutor(count) as pool,
        ):
            return [found(tokens) for tokens in pool.map(together, paths)]


# How files are transcribed, and beside which way
WAYS = {
    "alone, a position a call": (transcribe, (1, 0), None),
    "alone": (transcribe, (1, NUM_DRAFT_TOKENS["cpu"]), "alone, a position a call"),
    "8 at a time": (transcribe, (8, 0), "alone, a position a call"),
    "64 at a time": (transcribe, (64, 0), "alone, a position a call"),
    "live, alone": (transcribe_live, (1,), None),
    "live, 16 at a time": (transcribe_live, (16,), "live, alone"),
}


def main(
    limit: Annotated[int, typer.Option(min=1, help="Sentences to speak.")] = 300,
    out: harness.Out = harness.RESULTS / "batches.json",
) -> None:
    """Measure on tiny what batches, and draft tokens of files alone, do to texts."""
    # Speak the sentences, and transcribe them in each way
    versions = wer.find_synthesizers()
    results = harness.describe("tokens and words in batches, by batch size", "jiwer")
    planned = wer.plan_clips(wer.read_sentences(limit), CACHE, versions)
    clips = [clip for clip in planned if clip.synthesizer in SYNTHESIZERS]
    for clip in clips:
        wer.speak(clip)
    artifact = harness.find_model("tiny", *PRECISIONS)
    results |= {"checkpoint": Manifest.read(artifact).fingerprint, "clips": len(clips)}
    for precision in PRECISIONS:
        results[precision] = compare(artifact, precision, clips)
    harness.write(out, results)


def compare(artifact: Path, precision: str, clips: list[wer.Clip]) -> list[dict[str, Any]]:
    """Transcribe clips in each way, and return and print how tokens and words differ."""
    # Transcribe
    paths = [clip.path for clip in clips]
    runs = {
        name: function(artifact, precision, paths, *arguments)
        for name, (function, arguments, _) in WAYS.items()
    }

    # Compare
    texts = [[run[i]["text"] for run in runs.values()] for i in range(len(clips))]
    errors, words = wer.count_word_errors(clips, texts)
    rates, resampled = 100 * errors.sum(0) / words.sum(), resample_rates(errors, words)
    rows, columns = [], {name: column for column, name in enumerate(runs)}
    for name, run in runs.items():
        beside = WAYS[name][2] or name
        pairs = [(one["ids"], each["ids"]) for one, each in zip(runs[beside], run, strict=True)]
        rows.append(
            {
                "files": name,
                "beside": beside,
                "tokens": sum(len(ids) for _, ids in pairs),
                "tokens_other": sum(
                    a != b for one, each in pairs for a, b in zip(one, each, strict=True)
                ),
                "clips_other": sum(one != each for one, each in pairs),
                "close_decisions": sum(each["close"] for each in run),
                "wer": round(float(rates[columns[name]]), 3),
                "difference_interval": interval(
                    resampled[:, columns[name]] - resampled[:, columns[beside]]
                ),
            }
        )
    table = [
        (
            row["files"],
            f"{row['tokens_other']} of {row['tokens']:,}, in {row['clips_other']} clips",
            str(row["close_decisions"]),
            f"{row['wer']:.2f} %",
            "{:+.2f} to {:+.2f}".format(*row["difference_interval"]),
        )
        for row in rows
    ]
    print(precision, markdown_table(HEADINGS, table), sep="\n\n", end="\n\n")
    return rows


if __name__ == "__main__":
    harness.run(main)
