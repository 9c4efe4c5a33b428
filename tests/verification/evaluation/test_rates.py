"""Errors, rates and intervals against definitions, and what chance alone does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_onnx.verification.evaluation.rates import (
    RESAMPLES,
    count_errors,
    error_rates,
    resample_rates,
    worst,
)
from voxtral_onnx.verification.text_metrics import count_edits, normalize

WORDS = st.lists(st.sampled_from(["one", "two", "Three,", "it's"]), max_size=6).map(" ".join)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(reference=WORDS, hypothesis=WORDS)
def test_errors_are_the_edit_distance_and_pieces_hold_both_texts(reference, hypothesis):
    found = count_errors(reference, hypothesis)
    wanted, got = normalize(reference), normalize(hypothesis)
    assert found.word_errors == count_edits(wanted.split(), got.split())
    assert found.character_errors == count_edits(wanted, got)
    assert (found.words, found.characters) == (len(wanted.split()), len(wanted))
    assert " ".join(piece.reference for piece in found.pieces if piece.reference) == wanted
    assert " ".join(piece.hypothesis for piece in found.pieces if piece.hypothesis) == got


def test_case_and_punctuation_do_not_count():
    found = count_errors("It's six o'clock, John!", "it's SIX o'clock john")
    assert (found.words, found.word_errors, found.character_errors) == (4, 0, 0)


def test_a_rate_is_all_errors_over_all_words():
    errors, words = np.array([[1.0, 0.0], [0.0, 3.0]]), np.array([2.0, 8.0])
    (first, second), (none, above) = error_rates(errors, words)
    assert (first.value, second.value, none) == (10.0, 30.0, None)
    assert above is not None and above.value == 20.0
    assert first.interval == (0.0, 50.0) and above.interval == (-50.0, 37.5)


def test_differences_are_paired():
    """Two systems that err on the same recordings differ by nothing, however much they err."""
    rng = np.random.default_rng(1)
    errors = rng.integers(0, 5, 50).astype(float)
    words = np.full(50, 10.0)
    _, (_, above) = error_rates(np.stack([errors, errors], 1), words)
    assert above is not None and above.interval == (0.0, 0.0)
    _, (_, above) = error_rates(np.stack([errors, errors + 1], 1), words)
    assert above is not None and above.interval == (10.0, 10.0)


def test_intervals_hold_what_the_binomial_law_says():
    """One word a recording, half of them wrong: the standard error is 50 % over the square root."""
    errors = (np.arange(400) % 2).astype(float)[:, None]
    rates = resample_rates(errors, np.ones(400))
    assert rates.shape == (RESAMPLES, 1)
    # 2.5 %: of 10,000 draws the standard deviation is known to 0.7 %
    assert rates.std() == pytest.approx(100 * 0.5 / 400**0.5, rel=0.025)


def test_the_worst_come_first_and_the_good_not_at_all():
    rows = [count_errors("one two", text) for text in ("one two", "one", "three four", "onetwo")]
    assert worst(rows, 20) == [2, 3, 1] and worst(rows, 1) == [2]
