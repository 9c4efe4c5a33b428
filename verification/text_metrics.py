"""Metrics that compare words, characters, margins and logits of two models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .clips import Clip

BINS = 32  # bins of the margin histogram


def normalize(text: str) -> str:
    """Return the lower-case words of a text without punctuation but apostrophes inside words."""
    words = (word.strip("'") for word in re.findall(r"[\w']+", text.lower()))
    return " ".join(word for word in words if word)


def count_edits(wanted: Sequence, got: Sequence) -> int:
    """Return the Levenshtein distance of two sequences."""
    row = list(range(len(got) + 1))
    for i, a in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(got, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def compare_texts(clip: Clip, float_text: str, shipped_text: str) -> dict[str, Any]:
    """Compare two models' texts of a clip whose text is known.

    The result has both texts and their numbers of edits in words and characters.
    """
    wanted = normalize(clip.text or "")
    row: dict[str, Any] = {
        "clip": clip.name,
        "text": wanted,
        "characters": len(wanted),
        "words": len(wanted.split()),
    }
    for kind, text in (("float", float_text), ("shipped", shipped_text)):
        got = normalize(text)
        row[f"{kind}_text"], row[f"{kind}_edits"] = got, count_edits(wanted, got)
        row[f"{kind}_word_edits"] = count_edits(wanted.split(), got.split())
    return row


def error_rate(rows: Sequence[dict[str, Any]], kind: str) -> float:
    """Return the character error rate of "float" or "shipped" over rows of `compare_texts`."""
    return sum(row[f"{kind}_edits"] for row in rows) / max(
        1, sum(row["characters"] for row in rows)
    )


def softmax_divergence(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Return the Kullback-Leibler divergence of two arrays of logits, in nats.

    The logits are [n, vocab_size], the result is [n].
    """
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (wanted, got))
    return (np.exp(p) * (p - q)).sum(-1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def margin_histogram(wanted: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """Count blank margins of the float model and of the artifact over the same bins."""
    low, high = float(min(wanted.min(), got.min())), float(max(wanted.max(), got.max()))
    edges = np.linspace(
        np.floor(low),
        np.ceil(high) if np.ceil(high) > np.floor(low) else np.floor(low) + 1,
        BINS + 1,
    )
    counts = [np.histogram(values, edges)[0].tolist() for values in (wanted, got)]
    return {
        "edges": [round(float(edge), 4) for edge in edges],
        "float": counts[0],
        "shipped": counts[1],
    }
