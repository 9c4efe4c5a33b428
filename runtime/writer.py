"""The writer of a stream: sampled ids become tokens with text, times, and counts for `info`."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from operator import itemgetter
from typing import Any

from ..errors import DeviceError
from .guard import blank_penalty
from .hotwords import Hotwords
from .model import ModelFacts
from .sampler import TokenSampler
from .text.tokenizer import TextDecoder
from .tokens import Override, SampledToken, Token

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """The options with which a stream decodes."""

    num_delay_tokens: int
    blank_guard: bool = True
    alternatives: int = 0  # of each token of text
    hotwords: Hotwords | None = None
    stop_at_eos: bool = False  # whether the model's end-of-text token ends the stream
    num_draft_tokens: int = 0  # blanks that a call tries in advance after a blank


@dataclass(slots=True)
class Timings:
    """The time that a stream has spent in the encoder and in the decoder."""

    encode_seconds: float = 0.0  # mel frames included
    decode_seconds: float = 0.0
    steps: int = 0  # decoder positions, the prompt's included


class TokenWriter:
    """The text of one stream so far: it takes the sampled tokens in order."""

    def __init__(self, model: ModelFacts, options: StreamOptions):
        self.model, self.options = model, options
        self.ids, self.audio = model.manifest.tokens, model.manifest.config.audio
        self.num_generated = 0
        self.blanks = 0  # generated in a row
        self.overrides: list[Override] = []  # where the blank guard changed the text
        self.num_swayed = 0  # sampled tokens that hotwords changed
        self.batch: Callable[[], dict[str, Any]] | None = None  # what the engine did, if it wrote
        self.finished = False
        self.text = TextDecoder(model.tokenizer)
        self.timings = Timings()
        # Put in: first sample, length, and how much was put in before
        self._silences: list[tuple[int, int, int]] = []

    def blank_penalty(self, ahead: int = 0) -> float:
        """Return the penalty for the blank `ahead` positions after the next one."""
        return blank_penalty(self.blanks + ahead) if self.options.blank_guard else 0.0

    def write(self, sampled: SampledToken) -> Token:
        """Return a sampled token as the stream's next one.

        Raises:
            DeviceError: the model computed numbers that are not finite.
        """
        # Refuse what is no decision
        index, end = self.num_generated, self.seconds_of(self.num_generated)
        if not isfinite(sampled.logprob):
            raise DeviceError(
                f"at {end:.1f} s: the model computed numbers that are not finite, in "
                f"{self.model.precision} on {self.model.device_name}; try another --precision"
            )

        # Count
        self.num_swayed += sampled.is_swayed
        if sampled.token_id == self.ids.streaming_pad:
            self.blanks += 1
        else:
            if sampled.blank_margin > 0 and not sampled.is_swayed:
                margin, penalty = sampled.blank_margin, self.blank_penalty()
                self.overrides.append(Override(index, self.blanks, margin, penalty))
                _log.info("blank guard: text at %.1f s, after %d blanks", end, self.blanks)
            self.blanks = 0
        self.finished = self.options.stop_at_eos and sampled.token_id == self.ids.eos
        self.num_generated += 1

        text, margin = self.text.push(sampled.token_id), sampled.blank_margin
        return Token(
            index, sampled.token_id, text, end, sampled.logprob, margin, sampled.alternatives
        )

    def seconds_of(self, index: int) -> float:
        """Return where a generated token ends in the audio, in seconds; the delay is subtracted."""
        end = (index + 1) * self.audio.samples_per_token
        return self.num_fed(end) / self.audio.sample_rate

    def put_silence_in(self, first: int, size: int) -> None:
        """Note silence that a stream hears besides its audio, before it hears it.

        Args:
            first: its first sample, other silence before it included.
            size: samples.
        """
        self._silences.append((first, size, first - self.num_fed(first)))

    def num_fed(self, num_heard: int) -> int:
        """Return how many of the samples that a stream has heard are of its audio."""
        at = bisect_left(self._silences, num_heard, key=itemgetter(0))
        if not at:
            return num_heard
        first, size, before = self._silences[at - 1]
        return num_heard - before - min(size, num_heard - first)


def new_sampler(model: ModelFacts, options: StreamOptions) -> TokenSampler | None:
    """Return a sampler for a new stream; None if the graph samples."""
    if not options.alternatives and options.hotwords is None:
        return None
    ids, tokenizer = model.manifest.tokens, model.tokenizer
    return TokenSampler(ids, tokenizer, options.alternatives, options.hotwords)
