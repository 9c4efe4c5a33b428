"""The greedy decision for the next token, from logits in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Decision(NamedTuple):
    """The decisions at one position or several: each is a number, or an array [...] of them."""

    token_id: np.ndarray  # int64
    logprob: np.ndarray  # of this token, natural logarithm; without the penalty
    blank_margin: np.ndarray  # the blank's logit minus the highest other one; without the penalty
    lead: np.ndarray  # the token's logit minus the next highest one; with the penalty
    log_sum: np.ndarray  # the logits' log(sum(exp)); without the penalty


def greedy_decision(logits: np.ndarray, pad_id: int, penalty: ArrayLike = 0.0) -> Decision:
    """Return the decisions that the decoder's graph makes.

    The token with the highest logit is taken, and of equal ones that with the lowest id. The
    penalty is subtracted from the blank's logit for the choice alone.

    Args:
        logits: [..., vocab_size], of floats.
        pad_id: id of the blank.
        penalty: one number, or [...].
    """
    # Compare
    blank, compared = logits[..., pad_id], logits.copy()
    compared[..., pad_id] = -np.inf
    blank_margin = blank - compared.max(-1)
    compared[..., pad_id] = blank - np.asarray(penalty, logits.dtype)
    token_id = compared.argmax(-1)

    # Look at the choice
    at = token_id[..., None]
    chosen = np.take_along_axis(compared, at, -1)[..., 0]
    np.put_along_axis(compared, at, -np.inf, -1)
    lead = chosen - compared.max(-1)
    highest = logits.max(-1, keepdims=True)
    log_sum = (highest + np.log(np.exp(logits - highest).sum(-1, keepdims=True)))[..., 0]
    logprob = np.take_along_axis(logits, at, -1)[..., 0] - log_sum
    return Decision(token_id, logprob, blank_margin, lead, log_sum)
