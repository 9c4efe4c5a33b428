"""Measure hotwords at several biases: listed words found and invented, and the word error rate.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/hotwords.py [ARTIFACT]

The list is drawn from longer words that occur in few of the held-out sentences. So most sentences
have no listed word, and in each one a wrong one could be written. The same clips are transcribed
without the list and with it. Writes results/hotwords.json.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import harness
import jiwer
import numpy as np
import typer
import wer

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.hotwords import START_SHARE
from voxtral_onnx.verification.text_metrics import normalize

CACHE = harness.BUILD / "wer" / "wav"
BIASES = (0, 2, 4, 6, 8)  # 0: without the list
SYNTHESIZERS = ("espeak-ng", "flite")
MIN_LETTERS = 5
MAX_SENTENCES = 3  # that a listed word occurs in
SEED = 0


def draw_words(texts: list[str], count: int) -> list[str]:
    """Draw `count` of the words that are long and occur in few of the texts."""
    sentences = Counter(word for text in texts for word in set(normalize(text).split()))
    rare = sorted(
        word
        for word, seen in sentences.items()
        if len(word) >= MIN_LETTERS and seen <= MAX_SENTENCES
    )
    return sorted(
        np.random.default_rng(SEED).choice(rare, min(count, len(rare)), replace=False).tolist()
    )


def score(references: list[str], hypotheses: list[str], listed: set[str]) -> dict[str, Any]:
    """Return the word error rate in per cent, and counts of listed words.

    These are words that were said, those of them that were written, and words that were written
    although nobody said them.
    """
    said = found = invented = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        spoken, written = (
            Counter(word for word in text.split() if word in listed)
            for text in (reference, hypothesis)
        )
        said += spoken.total()
        found += (spoken & written).total()
        invented += (written - spoken).total()
    return {
        "wer": round(100 * jiwer.wer(references, hypotheses), 2),
        "listed_said": said,
        "listed_found": found,
        "listed_invented": invented,
    }


def main(
    artifact: harness.Model = "tiny",
    sentences: Annotated[int, typer.Option(help="Number of sentences of each kind.")] = 80,
    words: Annotated[int, typer.Option(help="Number of hotwords for each kind.")] = 50,
    out: harness.Out = harness.RESULTS / "hotwords.json",
) -> None:
    """Transcribe the clips without a list and with it, at several biases."""
    # Plan the clips of two synthesizers
    versions = wer.find_synthesizers()
    results = harness.describe(
        "held-out sentences without a list of hotwords (bias 0) and with it", "jiwer"
    )
    folder = harness.find_model(artifact, "q4f16")
    clips = [
        clip
        for clip in wer.plan_clips(wer.read_sentences(sentences), CACHE, versions)
        if clip.synthesizer in SYNTHESIZERS
    ]

    # Transcribe each kind of sentence at each bias
    rows, precision = [], None
    for kind in ("domain", "free"):
        chosen = [clip for clip in clips if clip.kind == kind]
        listed = draw_words([clip.text for clip in chosen], words)
        for clip in chosen:
            wer.speak(clip)
        references = [normalize(clip.text) for clip in chosen]
        for bias in BIASES:
            options = {"hotwords": listed, "hotword_bias": bias} if bias else {}
            with Transcriber(folder, "cpu", threads=1, **options) as transcriber:
                precision = transcriber.precision
                hypotheses = [normalize(transcriber.transcribe(clip.path).text) for clip in chosen]
            row = {"kind": kind, "bias": bias, "clips": len(chosen), "listed": len(listed)}
            rows.append(row | score(references, hypotheses, set(listed)))
            print(
                f"{kind:6}  bias {bias}: WER {rows[-1]['wer']:.2f} %; of {rows[-1]['listed_said']} "
                f"listed words {rows[-1]['listed_found']} found, {rows[-1]['listed_invented']} "
                "invented"
            )
    results |= {
        "precision": precision,
        "start_share": START_SHARE,
        "synthesizers": {name: versions[name] for name in SYNTHESIZERS},
        "results": rows,
    }
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
