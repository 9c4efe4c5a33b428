"""Measure what `--hotwords` finds and invents, on sentences that its bias was not chosen on.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/hotwords.py [ARTIFACT]

The bias was chosen on the first held-out sentences of each kind; these are those behind them, as
bench/wer.py speaks them. Longer words that occur in few of them are divided into lists, and every
clip is transcribed without a list and with each one at each bias. A list has words of few clips, so
most clips show what it does where none of its words is said. Rates are of all lists together;
intervals are those of `evaluate`: 95 % of a bootstrap over clips, paired with no list. Writes
results/hotwords.json.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
import wer
from rich.progress import track

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.runtime.hotwords import DEFAULT_BIAS, START_SHARE
from voxtral_onnx.verification.evaluation.rates import RESAMPLES, SEED, count_errors, error_rates
from voxtral_onnx.verification.text_metrics import normalize

CACHE = harness.BUILD / "wer" / "wav"
CHOSEN_ON = 80  # sentences of each kind, the first ones, that the default bias was chosen on
BIASES = (DEFAULT_BIAS, 2 * DEFAULT_BIAS)
PRECISION = "q4f16"
MIN_LETTERS = 5
MAX_SENTENCES = 3  # that a listed word occurs in


def draw_lists(texts: set[str], lists: int, words: int) -> list[list[str]]:
    """Divide the words that are long and occur in few of the texts into lists, at random."""
    sentences = Counter(word for text in texts for word in set(normalize(text).split()))
    rare = sorted(
        word
        for word, seen in sentences.items()
        if len(word) >= MIN_LETTERS and seen <= MAX_SENTENCES
    )
    drawn = np.random.default_rng(SEED).permutation(rare).tolist()
    return [drawn[i * words : (i + 1) * words] for i in range(lists) if drawn[i * words :]]


@cache
def load_transcriber(folder: Path, words: tuple[str, ...], bias: float) -> Transcriber:
    """Return a transcriber of one thread, loaded once in each process."""
    options = {"hotwords": words, "hotword_bias": bias} if words else {}
    return Transcriber(folder, "cpu", precision=PRECISION, threads=1, **options)


def transcribe(folder: Path, lists: list[list[str]], clip: wer.Clip) -> list[str]:
    """Speak a clip, and return its text without a list, then with each list at each bias."""
    wer.speak(clip)
    settings = [((), 0.0), *((tuple(words), bias) for words in lists for bias in BIASES)]
    return [load_transcriber(folder, *each).transcribe(clip.path).text for each in settings]


def count_words(reference: str, hypothesis: str, listed: set[str]) -> np.ndarray:
    """Return the listed words that were said, those of them missed, and those only written."""
    spoken, written = (
        Counter(word for word in normalize(text).split() if word in listed)
        for text in (reference, hypothesis)
    )
    return np.array([spoken.total(), (spoken - written).total(), (written - spoken).total()], float)


def summarize(
    kind: str, clips: list[wer.Clip], texts: list[list[str]], lists: list[list[str]], bias: float
) -> dict[str, Any]:
    """Return the rates of a kind of sentence at one bias, over all lists, beside those without."""
    place = BIASES.index(bias)
    # By clip, the sums over lists; last axis: without, with
    said, words, quiet_words = (np.zeros(len(clips)) for _ in range(3))
    missed, invented, errors, quiet_errors = (np.zeros((len(clips), 2)) for _ in range(4))
    quiet_clips = 0

    # Count each clip with each list
    for row, (clip, found) in enumerate(zip(clips, texts, strict=True)):
        for number, listed in enumerate(lists):
            both = found[0], found[1 + number * len(BIASES) + place]
            counted = [count_words(clip.text, text, set(listed)) for text in both]
            wrong = [count_errors(clip.text, text) for text in both]
            said[row] += counted[0][0]
            words[row] += wrong[0].words
            missed[row] += [each[1] for each in counted]
            invented[row] += [each[2] for each in counted]
            errors[row] += [each.word_errors for each in wrong]
            if not counted[0][0]:
                quiet_clips += 1
                quiet_words[row] += wrong[0].words
                quiet_errors[row] += [each.word_errors for each in wrong]

    # Rates over all of them, with their intervals
    return {
        "kind": kind,
        "bias": bias,
        "clips": len(clips),
        "lists": [len(listed) for listed in lists],
        "listed_said": int(said.sum()),
        "listed_missed": [int(x) for x in missed.sum(0)],
        "listed_invented": [int(x) for x in invented.sum(0)],
        "missed": _rates(missed, said),
        "wer": _rates(errors, words),
        "clips_without_listed": quiet_clips,
        "words_without_listed": int(quiet_words.sum()),
        "wer_without_listed": _rates(quiet_errors, quiet_words),
    }


def _rates(errors: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    rates, above = error_rates(errors, lengths)
    return {
        "without": asdict(rates[0]),
        "with": asdict(rates[1]),
        "difference": asdict(above[1]) if above[1] else None,
    }


def cells(row: dict[str, Any]) -> Sequence[str]:
    """Return a row of performance.md's table."""

    def change(name: str) -> str:
        low, high = row[name]["difference"]["interval"]
        return f"{row[name]['difference']['value']:+.1f} ({low:+.1f} to {high:+.1f})"

    said = row["listed_said"]
    found = [said - missed for missed in row["listed_missed"]]
    return (
        f"{row['kind']}, {row['bias']:g}",
        f"{found[0]}, {found[1]} of {said}",
        change("missed"),
        "{}, {}".format(*row["listed_invented"]),
        change("wer"),
        change("wer_without_listed"),
    )


def main(
    artifact: harness.Model = "tiny",
    free: Annotated[int, typer.Option(help="Number of free sentences.")] = 220,
    domain: Annotated[int, typer.Option(help="Number of sentences of tiny's domain.")] = 20,
    lists: Annotated[int, typer.Option(help="Lists of each kind.")] = 3,
    words: Annotated[int, typer.Option(help="Words in a list.")] = 100,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of one thread.")] = os.cpu_count()
    or 1,
    out: harness.Out = harness.RESULTS / "hotwords.json",
) -> None:
    """Transcribe the clips without a list and with each, at several biases."""
    # What is measured with what
    versions = wer.find_synthesizers()
    results = harness.describe(
        "held-out sentences without and with lists of hotwords: listed words missed and invented, "
        "word error rates in per cent",
        "jiwer",
    )
    folder = harness.find_model(artifact, PRECISION)
    clips = wer.plan_clips(wer.read_sentences(None), CACHE, versions)
    rows = []

    # Speak and transcribe the sentences of each kind
    for kind, count in (("free", free), ("domain", domain)):
        of_kind = [clip for clip in clips if clip.kind == kind]
        texts = list(dict.fromkeys(clip.text for clip in of_kind))[CHOSEN_ON : CHOSEN_ON + count]
        chosen = [clip for clip in of_kind if clip.text in texts]
        drawn = draw_lists(set(texts), lists, words)
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            found = pool.map(
                transcribe, [folder] * len(chosen), [drawn] * len(chosen), chosen, chunksize=4
            )
            written = list(track(found, kind, len(chosen), console=harness.stderr))
        rows += [summarize(kind, chosen, written, drawn, bias) for bias in BIASES]

    # Print the table, write all figures
    headings = (
        "sentences, bias",
        "found without, with",
        "missed, points",
        "invented",
        "WER, points",
        "WER where none is said",
    )
    print(markdown_table(headings, [cells(row) for row in rows]))
    results |= {
        "precision": PRECISION,
        "start_share": START_SHARE,
        "synthesizers": {name: {"version": versions[name]} for name in wer.VOICES},
        "chosen_on": f"the first {CHOSEN_ON} sentences of each kind, which are left out",
        "bootstrap": {"unit": "clip", "resamples": RESAMPLES, "seed": SEED},
        "results": rows,
    }
    harness.write(out, results)


if __name__ == "__main__":
    harness.run(main)
