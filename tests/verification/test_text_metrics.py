"""Edits, divergences and histograms against definitions and a library."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_onnx.verification.text_metrics import (
    count_edits,
    margin_histogram,
    normalize,
    softmax_divergence,
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    wanted=st.lists(st.sampled_from("abc"), min_size=1, max_size=8),
    got=st.lists(st.sampled_from("abc"), max_size=8),
)
def test_edits_are_those_of_jiwer(wanted, got):
    found = jiwer.process_words(" ".join(wanted), " ".join(got))
    assert count_edits(wanted, got) == found.substitutions + found.deletions + found.insertions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Six o'clock, A.M.", "six o'clock a m"),
        ("'tis — so", "tis so"),
        ("", ""),
        ("  a\nb ", "a b"),
    ],
)
def test_words_are_compared_without_case_and_punctuation(text, words):
    assert normalize(text) == words


def test_divergence_is_torchs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 5, (2, 7, 50)).astype(np.float32)
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(torch.from_numpy(b).double(), -1),
        torch.log_softmax(torch.from_numpy(a).double(), -1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    assert softmax_divergence(a, b) == pytest.approx(expected.numpy(), abs=1e-12)
    assert softmax_divergence(a, a) == pytest.approx(np.zeros(7), abs=1e-12)


def test_every_margin_has_a_bin():
    a, b = np.array([-3.2, 0.0, 8.0], np.float32), np.array([-3.5, 0.1, 7.9], np.float32)
    histogram = margin_histogram(a, b)
    assert (histogram["edges"][0], histogram["edges"][-1]) == (-4, 8)
    assert sum(histogram["float"]) == sum(histogram["shipped"]) == 3
    assert sum(margin_histogram(np.zeros(2), np.zeros(2))["float"]) == 2
