"""Error rates of several systems on the same recordings, and how certain they are.

A rate is all errors over all words (or characters) of the references. Its interval holds the middle
95 % of a bootstrap over recordings: they are drawn with replacement, the same for all systems, so
that differences between systems are paired. Source: Bisani and Ney, "Bootstrap estimates for
confidence intervals in ASR performance evaluation", ICASSP 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from ...errors import DeviceError
from ..text_metrics import normalize

NORMALIZER = "lower case, words of letters, digits and inner apostrophes, without punctuation"
RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring words of a reference and of what was written for it."""

    kind: str  # equal, substitute, delete, insert
    reference: str
    hypothesis: str


@dataclass(frozen=True, slots=True)
class Errors:
    """How a text differs from its reference; both normalised."""

    words: int  # of the reference
    word_errors: int
    characters: int
    character_errors: int
    pieces: tuple[Piece, ...]  # both texts, word by word, in order


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate in per cent."""

    value: float
    interval: tuple[float, float]  # the middle 95 % of the bootstrap


def import_jiwer() -> ModuleType:
    """Import what counts errors.

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
    """Count what must be substituted, deleted and inserted to make one text of the other.

    An empty reference has no words: all that is written for it is inserted.

    Raises:
        DeviceError: as `import_jiwer`.
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
    """Return error rates in per cent of resampled recordings: [resamples, systems].

    Args:
        errors: [recordings, systems].
        lengths: words or characters of the references [recordings].
    """
    rng, rates = np.random.default_rng(SEED), []
    for _ in range(0, RESAMPLES, 1000):
        # [1000, recordings]
        counts = rng.multinomial(len(lengths), np.full(len(lengths), 1 / len(lengths)), size=1000)
        rates.append(100 * (counts @ errors) / np.maximum(1, counts @ lengths)[:, None])
    return np.concatenate(rates)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 %."""
    low, high = np.percentile(values, (2.5, 97.5))
    return round(float(low), 3), round(float(high), 3)


def error_rates(errors: np.ndarray, lengths: np.ndarray) -> tuple[list[Rate], list[Rate | None]]:
    """Return each system's rate, and how much it is above the first one's.

    Args:
        errors: [recordings, systems].
        lengths: words or characters of the references [recordings].
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
    """Return the places of the rows with the most word errors; of equal ones the shorter first."""
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].word_errors, rows[i].words, i))
    return [place for place in order if rows[place].word_errors or rows[place].character_errors][
        :count
    ]
