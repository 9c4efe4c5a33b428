"""Sampling from all logits in Python instead of in the graph, for alternatives and hotwords."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..manifest import Tokens
from .decision import greedy_decision
from .hotwords import START_SHARE, Hotwords
from .text.tokenizer import Tokenizer
from .tokens import Alternative, SampledToken

MAX_ALTERNATIVES = 10


class TokenSampler:
    """A greedy sampler for one stream, like the graph's, with alternatives and hotwords.

    Blanks get no bias, and a hotword may begin only where the model would write some text without
    it: the audio decides whether there is a word, hotwords influence which one.
    """

    def __init__(
        self,
        ids: Tokens,
        tokenizer: Tokenizer,
        alternatives: int = 0,
        hotwords: Hotwords | None = None,
    ):
        self.ids = ids
        self.tokenizer = tokenizer
        self.num_alternatives = alternatives
        self.hotwords = hotwords
        # The last tokens without blanks, as many as can be the beginning of a hotword
        self.recent: list[int] = []

    def sample(self, logits: np.ndarray, blank_penalty: float) -> SampledToken:
        """Return the token of one position.

        Args:
            logits: float32 [vocab_size].
            blank_penalty: subtracted from the blank's logit for the decision; logprob, blank_margin
                and alternatives do not include it.
        """
        blank_id = self.ids.streaming_pad
        plain = decision = greedy_decision(logits, blank_id, blank_penalty)
        if self.hotwords is not None:
            biased = logits.copy()
            biased[self.hotwords.continuations(self.recent)] += self.hotwords.bias
            if plain.token_id != blank_id and plain.token_id >= self.ids.first_text:
                biased[self.hotwords.starts(self.recent)] += self.hotwords.bias * np.float32(
                    START_SHARE
                )
            decision = greedy_decision(biased, blank_id, blank_penalty)
        token_id = int(decision.token_id)
        return SampledToken(
            token_id,
            float(logits[token_id] - plain.log_sum),
            float(plain.blank_margin),
            tuple(self._alternatives(logits, plain.log_sum)),
            is_swayed=bool(token_id != plain.token_id),
            # Another plain decision might bias other tokens
            lead=float(min(plain.lead, decision.lead)),
        )

    def _alternatives(self, logits: np.ndarray, log_sum: np.ndarray) -> Iterable[Alternative]:
        count = self.num_alternatives
        if not count:
            return
        least = np.partition(logits, -count)[-count]
        # Sorting is stable, so equal logits stay in the order of their ids
        candidates = np.flatnonzero(logits >= least)
        for token_id in candidates[np.argsort(-logits[candidates], kind="stable")][:count]:
            text = self.tokenizer.bytes_of(int(token_id)).decode("utf-8", "replace")
            yield Alternative(int(token_id), text, float(logits[token_id] - log_sum))

    def accept_token(self, token_id: int) -> None:
        """Remember the token that was written, which later hotwords may continue."""
        if self.hotwords is not None and token_id != self.ids.streaming_pad:
            self.recent = [*self.recent, token_id][-self.hotwords.longest :]
