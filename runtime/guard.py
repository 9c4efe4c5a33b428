"""The blank guard: a penalty that makes text likelier after many blanks in a row.

A blank is the token that the model writes while it has no text. The model can get stuck: every
blank makes the next one likelier, although people speak. In true silence the blank's logit is ahead
by more than the largest penalty, so that no text appears. Source: vLLM issue 47614 and pull
request 47615.
"""

from __future__ import annotations

import numpy as np

# Blanks in a row, 16 s; pauses in speech have up to 165 of them (vLLM pull request 47615)
BLANKS_UNPENALISED = 200
BLANK_PENALTY_STEP = 0.5  # of a logit, for each further blank
MAX_BLANK_PENALTY = 7.0


def blank_penalty(blanks: int) -> float:
    """Return the number to subtract from the blank's logit after `blanks` blanks in a row."""
    beyond = blanks - BLANKS_UNPENALISED
    return min(MAX_BLANK_PENALTY, BLANK_PENALTY_STEP * beyond) if beyond > 0 else 0.0


def blank_penalties(blanks: np.ndarray) -> np.ndarray:
    """Return `blank_penalty` of several streams, float32 [n], from int64 [n]."""
    steps = np.maximum(blanks - BLANKS_UNPENALISED, 0)
    return np.minimum(BLANK_PENALTY_STEP * steps, MAX_BLANK_PENALTY).astype(np.float32)
