"""Audio embeddings and tokens to next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..manifest import CacheSpec
from .device.cache import KVCache, KVRows
from .device.session import Session
from .tokens import Choice, Choose


class Decoder:
    """The decoder graph."""

    def __init__(self, session: Session, spec: CacheSpec):
        self.session, self.spec = session, spec

    def new_cache(self) -> KVCache:
        """Buffers for one stream."""
        return KVCache(self.session, self.spec)

    def new_rows(self, count: int) -> KVRows:
        """Buffers for so many streams that run together."""
        return KVRows(self.session, self.spec, count)

    def step(
        self,
        cache: KVCache,
        token_ids: Sequence[int],
        audio_embeds: np.ndarray,
        num_delay_tokens: int,
        blank_penalties: Sequence[float] = (),
        choose: Choose | None = None,
    ) -> list[Choice]:
        """Run the next positions; the choice at each.

        Args:
            cache: of the stream.
            token_ids: the tokens that stand at these positions.
            audio_embeds: [len(token_ids), hidden_size].
            num_delay_tokens: of the stream.
            blank_penalties: taken off the blank's logit at each position before the choice, by
                default nothing; logprob and margin are those before.
            choose: makes the choices instead of the graph.
        """
        feeds = {
            "input_ids": np.array([token_ids], np.int64),
            "audio_embeds": audio_embeds[None],
            "num_delay_tokens": np.array([num_delay_tokens], np.int64),
            "blank_penalty": np.array([blank_penalties or [0.0] * len(token_ids)], np.float32),
            **cache.positions(len(token_ids)),
        }
        if choose is not None:
            logits = self.session.step(cache, feeds, "logits")[0]
            return [
                choose(*position)
                for position in zip(logits, feeds["blank_penalty"][0], strict=True)
            ]
        steps = self.session.step(cache, feeds, "step")[0]
        return _choices(steps)

    def step_rows(
        self,
        rows: KVRows,
        caches: Sequence[KVCache],
        token_ids: Sequence[int],
        audio_embeds: np.ndarray,
        num_delay_tokens: Sequence[int],
        blank_penalties: Sequence[float],
        chooses: Sequence[Choose | None],
    ) -> list[Choice]:
        """Run the next position of several streams in one call; the choice of each.

        The caches do not advance.

        Attention takes a batch of single positions only.

        Args:
            rows: the streams' common buffers.
            caches: of their first rows, in order.
            token_ids: the token that stands at each position.
            audio_embeds: [len(caches), hidden_size].
            num_delay_tokens: of each stream.
            blank_penalties: as for `step`.
            chooses: of each stream as for `step`, for all or for none.
        """
        positions = [cache.positions(1) for cache in caches]
        feeds = {
            "input_ids": np.array(token_ids, np.int64)[:, None],
            "audio_embeds": audio_embeds[:, None],
            "num_delay_tokens": np.array(num_delay_tokens, np.int64),
            "blank_penalty": np.array(blank_penalties, np.float32)[:, None],
            **{
                name: np.concatenate([at[name] for at in positions])
                for name in ("cos", "sin", "seqlens_k")
            },
            "total_sequence_length": positions[0]["total_sequence_length"],
        }
        binding, penalties = rows.binding(len(caches)), feeds["blank_penalty"][:, 0]
        if all(chooses):
            logits = binding.run(feeds, "logits")[:, 0]
            return [
                choose(*row)
                for choose, *row in zip(chooses, logits, penalties, strict=True)
                if choose
            ]
        return _choices(binding.run(feeds, "step")[:, 0])


def _choices(steps: np.ndarray) -> list[Choice]:
    return [
        Choice(int(token_id), float(logprob), float(margin)) for token_id, logprob, margin in steps
    ]
