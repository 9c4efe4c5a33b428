"""Tokens sampled at single positions, and those of the text that they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import numpy as np

# Between logits; kernels for one and for several streams differ by less
CLOSE_MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that may stand at a position."""

    token_id: int
    text: str  # empty for a special token
    logprob: float


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token that was sampled at one position."""

    token_id: int
    logprob: float  # of this token, before any penalty
    blank_margin: float  # logit of the blank less the best other one
    alternatives: tuple[Alternative, ...] = ()  # the best tokens, where they are asked for
    is_swayed: bool = False  # by hotwords: without them another token would have been sampled
    # Over the next best in the logits that decided, where these are known
    lead: float | None = None

    def is_close(self) -> bool:
        """Tell whether other kernels might decide otherwise.

        The two best logits may be within CLOSE_MARGIN.

        Where a word was sampled, the best other word is not known; one that has more than half of
        the probability is ahead of all others by more.
        """
        if self.lead is not None:
            return self.lead < CLOSE_MARGIN
        return abs(self.blank_margin) < CLOSE_MARGIN or (
            self.blank_margin < 0 and self.logprob < log(0.5 + CLOSE_MARGIN / 4)
        )


# Takes the logits [vocab_size] at a position, and the blank's penalty
Sample = Callable[[np.ndarray, float], SampledToken]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token: 80 ms of audio."""

    index: int  # from 0, the prompt not counted
    token_id: int
    text: str  # what this token completes; empty for blanks and inside a character
    end: float  # seconds of audio that this token stands for the end of, the delay taken off
    logprob: float
    blank_margin: float
    # The best tokens here, this one among them, where they are asked for
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """A decision that the blank guard changed: a word instead of one more blank."""

    index: int  # of the token
    blanks: int  # in a row before it
    blank_margin: float  # by which the blank would have won
    penalty: float
