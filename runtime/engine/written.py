"""What an engine hands on: the tokens of a piece, a burst at a time, its end, and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from ..tokens import SampledToken
from .recording import PieceRun, Recording


@dataclass(frozen=True, slots=True)
class Encoded:
    """More of a recording that was encoded."""

    recording: Recording


@dataclass(frozen=True, slots=True)
class Burst:
    """The next tokens of a piece."""

    run: PieceRun
    end: int | None  # of the piece when it was written; a join may put it off
    first: int  # index of the first of them in the recording
    sampled: np.ndarray  # float32 [n, 3]: ids, logprobs, blank margins
    sampled_in_python: Sequence[SampledToken]  # the same with alternatives; empty otherwise
    num_close: int  # decisions that were not made again
    steps: int  # positions that were run, the prompt's included
    seconds: float  # of the calls, shared with the other slots

    def tokens(self) -> Sequence[SampledToken]:
        """Return the tokens."""
        return self.sampled_in_python or [
            SampledToken(int(token_id), logprob, margin)
            for token_id, logprob, margin in self.sampled.tolist()
        ]


@dataclass(frozen=True, slots=True)
class End:
    """The end of a piece, after its bursts."""

    run: PieceRun
    end: int | None  # index of the token after its last; None at the end of the recording
    is_eos: bool  # the model's end-of-text token has ended it
    has_spilled: bool  # text was written that stands in the next piece


@dataclass(frozen=True, slots=True)
class Join:
    """A piece that goes on where the next one had begun, whose tokens do not count."""

    run: PieceRun
    dropped: PieceRun
    end: int | None  # of the piece from now on


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that has ended a recording; None for all of them, when the engine has failed."""

    recording: Recording | None
    error: BaseException


Event = Encoded | Burst | End | Join | Failure
Events = SimpleQueue[Event]
