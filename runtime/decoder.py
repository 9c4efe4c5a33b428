"""Audio embeddings and tokens to next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..manifest import CacheSpec
from .device.cache import BatchedKVCache, KVCache
from .device.session import Session
from .tokens import Sample, SampledToken


class Decoder:
    """The decoder graph."""

    def __init__(self, session: Session, spec: CacheSpec):
        self.session, self.spec = session, spec

    def new_cache(self) -> KVCache:
        """Return buffers for one stream."""
        return KVCache(self.session, self.spec)

    def new_batch(self, count: int) -> BatchedKVCache:
        """Return buffers for a batch of so many streams."""
        return BatchedKVCache(self.session, self.spec, count)

    def step(
        self,
        cache: KVCache,
        token_ids: Sequence[int],
        audio_embeds: np.ndarray,
        num_delay_tokens: int,
        blank_penalties: Sequence[float] = (),
        sample: Sample | None = None,
    ) -> list[SampledToken]:
        """Run the next positions; return the token sampled at each.

        Args:
            cache: of the stream.
            token_ids: the tokens that stand at these positions.
            audio_embeds: [len(token_ids), hidden_size].
            num_delay_tokens: of the stream.
            blank_penalties: taken off the blank's logit at each position before sampling, by
                default nothing; logprob and margin are those before.
            sample: samples the tokens instead of the graph.
        """
        feeds = {
            "input_ids": np.array([token_ids], np.int64),
            "audio_embeds": audio_embeds[None],
            "num_delay_tokens": np.array([num_delay_tokens], np.int64),
            "blank_penalty": np.array([blank_penalties or [0.0] * len(token_ids)], np.float32),
            **cache.positions(len(token_ids)),
        }
        if sample is not None:
            logits = self.session.step(cache, feeds, "logits")[0]
            return [
                sample(*position)
                for position in zip(logits, feeds["blank_penalty"][0], strict=True)
            ]
        steps = self.session.step(cache, feeds, "step")[0]
        return _sampled_tokens(steps)

    def step_batch(
        self,
        batch: BatchedKVCache,
        caches: Sequence[KVCache],
        token_ids: Sequence[int],
        audio_embeds: np.ndarray,
        num_delay_tokens: Sequence[int],
        blank_penalties: Sequence[float],
        samplers: Sequence[Sample | None],
    ) -> list[SampledToken]:
        """Run the next position of a batch of streams in one call; return the token of each.

        The caches do not advance.

        Attention takes a batch of single positions only.

        Args:
            batch: the streams' common buffers.
            caches: of its first slots, in order.
            token_ids: the token that stands at each position.
            audio_embeds: [len(caches), hidden_size].
            num_delay_tokens: of each stream.
            blank_penalties: as for `step`.
            samplers: of each stream as for `step`, for all or for none.
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
        binding, penalties = batch.binding(len(caches)), feeds["blank_penalty"][:, 0]
        if all(samplers):
            logits = binding.run(feeds, "logits")[:, 0]
            return [
                sample(*position)
                for sample, *position in zip(samplers, logits, penalties, strict=True)
                if sample
            ]
        return _sampled_tokens(binding.run(feeds, "step")[:, 0])


def _sampled_tokens(steps: np.ndarray) -> list[SampledToken]:
    return [
        SampledToken(int(token_id), float(logprob), float(margin))
        for token_id, logprob, margin in steps
    ]
