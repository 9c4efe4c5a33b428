"""Error rates of several systems on the same recordings, with confidence intervals.

A rate is the number of errors in all recordings, divided by the number of words (or characters) of
all references. Its interval is the middle 95 % of a bootstrap over recordings: samples of them are
drawn with replacement, the same samples for all systems, so that differences between systems are
paired. Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from ...errors import DeviceError
from ..text_metrics import normalize

NORMALIZER = "lower case, words of letters, digits and inner apostrophes, without punctuation"
RESAMPLES = 10_000  # samples of the bootstrap
SEED = 0  # of its random numbers


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of words in an alignment that are all equal, replaced, missing or added."""

    kind: str  # equal, substitute, delete, insert
    reference: str
    hypothesis: str


@dataclass(frozen=True, slots=True)
class Errors:
    """The differences between a text and its reference, after both are normalised."""

    words: int  # of the reference
    word_errors: int
    characters: int
    character_errors: int
    pieces: tuple[Piece, ...]  # both texts, word by word, in order


@dataclass(frozen=True, slots=True)
class Rate:
    """An error rate, or a difference of rates, in per cent."""

    value: float
    interval: tuple[float, float]  # the middle 95 % of the bootstrap


def import_jiwer() -> ModuleType:
    """Import jiwer, an optional dependency that aligns texts.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise DeviceError(
            f"evaluate needs {error.name}; run: pip install 'voxtral-onnx[evaluate]'"
        ) from error
    return jiwer


def count_errors(reference: str, hypothesis: str) -> Errors:
    """Count the substitutions, deletions and insertions that turn a reference into a hypothesis.

    Words and characters are counted separately. With an empty reference, all of the hypothesis
    counts as inserted.

    Raises:
        DeviceError: jiwer is not installed.
    """
    jiwer = import_jiwer()
    wanted, found = normalize(reference), normalize(hypothesis)
    if not wanted:
        words, pieces = found.split(), (Piece("insert", "", found),) if found else ()
        return Errors(0, len(words), 0, len(found), pieces)
    by_word, by_character = (
        jiwer.process_words(wanted, found),
        jiwer.process_characters(wanted, found),
    )
    references, hypotheses = by_word.references[0], by_word.hypotheses[0]
    pieces = tuple(
        Piece(
            chunk.type,
            " ".join(references[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(hypotheses[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in by_word.alignments[0]
    )
    return Errors(len(wanted.split()), _edits(by_word), len(wanted), _edits(by_character), pieces)


def _edits(found) -> int:
    return found.substitutions + found.deletions + found.insertions


def resample_rates(errors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the error rates of bootstrap samples of the recordings.

    Args:
        errors: numbers of errors [recordings, systems].
        lengths: words or characters of the references [recordings].

    Returns:
        per cent, float64 [RESAMPLES, systems].
    """
    rng, rates = np.random.default_rng(SEED), []
    for _ in range(0, RESAMPLES, 1000):
        # [1000, recordings]
        counts = rng.multinomial(len(lengths), np.full(len(lengths), 1 / len(lengths)), size=1000)
        rates.append(100 * (counts @ errors) / np.maximum(1, counts @ lengths)[:, None])
    return np.concatenate(rates)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of values."""
    low, high = np.percentile(values, (2.5, 97.5))
    return round(float(low), 3), round(float(high), 3)


def error_rates(errors: np.ndarray, lengths: np.ndarray) -> tuple[list[Rate], list[Rate | None]]:
    """Return each system's rate, and its difference from the first system's.

    Args:
        errors: numbers of errors [recordings, systems].
        lengths: words or characters of the references [recordings].

    Returns:
        rates, and differences, whose first element is None.
    """
    values = 100 * errors.sum(0) / max(1, lengths.sum())
    resampled = resample_rates(errors, lengths)
    rates = [
        Rate(round(float(value), 3), interval(column))
        for value, column in zip(values, resampled.T, strict=True)
    ]
    above: list[Rate | None] = [None]
    for value, column in zip(values[1:], resampled.T[1:], strict=True):
        above.append(Rate(round(float(value - values[0]), 3), interval(column - resampled[:, 0])))
    return rates, above


def worst(rows: Sequence[Errors], count: int) -> list[int]:
    """Return the indices of up to `count` rows with errors, those with most word errors first.

    Of rows with equally many, the one with the shorter reference comes first.
    """
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].word_errors, rows[i].words, i))
    return [place for place in order if rows[place].word_errors or rows[place].character_errors][
        :count
    ]
