"""Tokens as the decoder samples them, and as a stream returns them with text and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import numpy as np

# A difference of logits. The logits of one stream differ by less than this between the kernels that
# run a single position and those that run several.
CLOSE_MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that may stand at a position."""

    token_id: int
    text: str  # empty for a special token
    logprob: float  # natural logarithm of its probability


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token that was sampled at one position."""

    token_id: int
    logprob: float  # of this token, before any penalty; natural logarithm
    blank_margin: float  # the blank's logit minus the highest logit of all other tokens
    alternatives: tuple[Alternative, ...] = ()  # the likeliest tokens, if any were asked for
    is_swayed: bool = False  # by hotwords: without them another token would have been sampled
    # Its logit minus the next highest, penalty and hotwords included; None if the graph sampled
    lead: float | None = None

    def is_close(self) -> bool:
        """Return whether other kernels might sample another token here.

        That is so if the two highest logits may differ by less than CLOSE_MARGIN. If the graph has
        sampled a word, the next best word is not known; but a word with clearly more than half of
        the probability is ahead of every other by more than that.
        """
        if self.lead is not None:
            return self.lead < CLOSE_MARGIN
        return abs(self.blank_margin) < CLOSE_MARGIN or (
            self.blank_margin < 0 and self.logprob < log(0.5 + CLOSE_MARGIN / 4)
        )


# Samples a token from the logits, float32 [vocab_size], of a position and the blank's penalty
Sample = Callable[[np.ndarray, float], SampledToken]


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token, which stands for 80 ms of audio."""

    index: int  # from 0; the prompt is not counted
    token_id: int
    # The characters that this token completes; empty for blanks and inside a character
    text: str
    end: float  # where its 80 ms end in the audio, in seconds; the delay is subtracted
    logprob: float  # natural logarithm of its probability
    blank_margin: float  # the blank's logit minus the highest logit of all other tokens
    # The likeliest tokens at this position, this one among them, if any were asked for
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """A position at which the blank guard made the model write text instead of a blank."""

    index: int  # of the token
    blanks: int  # generated in a row before it
    blank_margin: float  # by how much the blank's logit was higher
    penalty: float  # that was subtracted from it
