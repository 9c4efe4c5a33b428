"""Measure on tiny what batches, and draft tokens of files alone, do to texts.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/batches.py

Held-out sentences, as bench/wer.py speaks them, are transcribed in q4f16: one after the other by a
position a call, the same with draft tokens, as files alone are, then eight and 64 at a time. Tokens
and words are compared with those of the first; intervals of word error rates are those of
bench/wer.py. Writes results/batches.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import harness
import typer
import wer

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.runtime.transcriber import NUM_DRAFT_TOKENS
from voxtral_onnx.verification.evaluation.rates import interval, resample_rates

CACHE = harness.BUILD / "wer" / "wav"
SYNTHESIZERS = ("espeak-ng", "flite")  # the quick ones
PRECISION = "q4f16"
RUNS = {  # batch size, draft tokens
    "alone, a position a call": (1, 0),
    "alone": (1, NUM_DRAFT_TOKENS["cpu"]),
    "8 at a time": (8, 0),
    "64 at a time": (64, 0),
}
HEADINGS = ("files", "tokens other", "close decisions", "words wrong", "difference")


def transcribe(
    artifact: Path, paths: list[Path], batch_size: int, drafts: int
) -> list[dict[str, Any]]:
    """Return token ids, text and close decisions of each file."""
    found, NUM_DRAFT_TOKENS["cpu"] = {}, drafts
    with Transcriber(artifact, "cpu", precision=PRECISION, batch_size=batch_size) as transcriber:
        for transcript in transcriber.transcribe_many(map(str, paths)):
            batch = transcript.info["batch"]
            found[transcript.source.name] = {
                "ids": transcript.token_ids,
                "text": transcript.text,
                "close": batch["close_decisions"] if batch else 0,
            }
    return [found[str(path)] for path in paths]


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
    artifact = harness.find_model("tiny", PRECISION)
    paths = [clip.path for clip in clips]
    runs = {name: transcribe(artifact, paths, *setting) for name, setting in RUNS.items()}

    # Compare
    texts = [[run[i]["text"] for run in runs.values()] for i in range(len(clips))]
    errors, words = wer.count_word_errors(clips, texts)
    rates, resampled = 100 * errors.sum(0) / words.sum(), resample_rates(errors, words)
    rows, alone = [], next(iter(runs.values()))
    for column, (name, run) in enumerate(runs.items()):
        pairs = [(one["ids"], each["ids"]) for one, each in zip(alone, run, strict=True)]
        rows.append(
            {
                "files": name,
                "tokens": sum(len(ids) for _, ids in pairs),
                "tokens_other": sum(
                    a != b for one, each in pairs for a, b in zip(one, each, strict=True)
                ),
                "clips_other": sum(one != each for one, each in pairs),
                "close_decisions": sum(each["close"] for each in run),
                "wer": round(float(rates[column]), 3),
                "difference_interval": interval(resampled[:, column] - resampled[:, 0]),
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
    print(markdown_table(HEADINGS, table))
    harness.write(
        out,
        results
        | {
            "checkpoint": Manifest.read(artifact).fingerprint,
            "precision": PRECISION,
            "clips": len(clips),
            "words": int(words.sum()),
            "results": rows,
        },
    )


if __name__ == "__main__":
    harness.run(main)
