"""Audio embeddings and tokens to next tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..manifest import CacheSpec
from .cache import KVCache
from .session import Session


@dataclass(frozen=True, slots=True)
class Choice:
    """The greedy choice at one position."""

    token_id: int
    logprob: float  # of the chosen token, before any penalty
    blank_margin: float  # logit of the blank less the best other one


class Decoder:
    """The decoder graph."""

    def __init__(self, session: Session, spec: CacheSpec):
        self.session, self.spec = session, spec

    def new_cache(self) -> KVCache:
        """Buffers for one stream."""
        return KVCache(self.session, self.spec)

    def step(
        self,
        cache: KVCache,
        token_ids: list[int],
        audio_embeds: np.ndarray,
        num_delay_tokens: int,
        blank_penalty: float = 0.0,
    ) -> Choice:
        """Run the next positions; the choice at the last of them.

        Args:
            cache: of the stream.
            token_ids: the tokens that stand at these positions.
            audio_embeds: [len(token_ids), hidden_size].
            num_delay_tokens: of the stream.
            blank_penalty: taken off the blank's logit before the choice; logprob and margin are those before.
        """
        feeds = {
            "input_ids": np.array([token_ids], np.int64),
            "audio_embeds": audio_embeds[None],
            "num_delay_tokens": np.array([num_delay_tokens], np.int64),
            "blank_penalty": np.full((1, len(token_ids)), blank_penalty, np.float32),
            **cache.positions(len(token_ids)),
        }
        token_id, logprob, blank_margin = self.session.step(cache, feeds, "step")[0, -1]
        return Choice(int(token_id), float(logprob), float(blank_margin))
