"""The decoder graph: audio embeddings and previous tokens to the next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..manifest import CacheSpec
from .device.cache import BatchedKVCache, KVCache
from .device.session import Session
from .tokens import Sample, SampledToken


class Decoder:
    """The decoder graph with its session."""

    def __init__(self, session: Session, spec: CacheSpec):
        self.session, self.spec = session, spec

    def new_cache(self) -> KVCache:
        """Return new buffers for the keys and values of one stream."""
        return KVCache(self.session, self.spec)

    def new_batch(self, count: int) -> BatchedKVCache:
        """Return new buffers for a batch of `count` streams."""
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
        """Run the next positions of a stream, and return the token that is sampled at each.

        Args:
            cache: the stream's; it advances by as many positions.
            token_ids: the input tokens of these positions.
            audio_embeds: [len(token_ids), hidden_size].
            num_delay_tokens: the stream's delay in tokens.
            blank_penalties: subtracted from the blank's logit at each position before a token is
                sampled, 0 by default; logprob and blank_margin do not include it.
            sample: samples from the logits; None leaves that to the graph.

        Raises:
            DeviceError: the device's memory is full, or onnxruntime cannot run the graph.
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
        """Run one position of each stream of a batch in one call, and return the sampled tokens.

        The caches do not advance. One position each, because the attention operator accepts no
        more in a batch.

        Args:
            batch: the streams' common buffers.
            caches: the caches of its first slots, in order.
            token_ids: the input token of each stream.
            audio_embeds: [len(caches), hidden_size].
            num_delay_tokens: the delay of each stream in tokens.
            blank_penalties: of each stream, as for `step`.
            samplers: of each stream, as for `step`; either all or none are None.

        Raises:
            DeviceError: as for `step`.
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
