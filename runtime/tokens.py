"""What a stream gives: tokens, and the decisions that its guard turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .decoder import Alternative

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token: 80 ms of audio."""

    index: int  # from 0, the prompt not counted
    token_id: int
    text: str  # what this token completes; empty for blanks and inside a character
    end: float  # seconds of audio that this token stands for the end of, the delay taken off
    logprob: float
    blank_margin: float
    # the best tokens here, this one among them, where they are asked for
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """A decision that the blank guard turned: a word instead of one more blank."""

    index: int  # of the token
    blanks: int  # in a row before it
    blank_margin: float  # by which the blank would have won
    penalty: float
