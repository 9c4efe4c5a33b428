"""The decoder graph: audio embeddings and previous tokens to the next tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..manifest import CacheSpec
from .device.cache import BatchedKVCache, KVCache, buffer_rows
from .device.session import Session
from .tokens import Sample, SampledToken


class Decoder:
    """The decoder graph with its session."""

    def __init__(self, session: Session, spec: CacheSpec):
        self.session, self.spec = session, spec

    def new_cache(self) -> KVCache:
        """Return new buffers for the keys and values of one stream."""
        return KVCache(self.session, self.spec)

    def new_batch(self, spec: CacheSpec, count: int) -> BatchedKVCache:
        """Return new buffers for a batch of `count` streams."""
        return BatchedKVCache(self.session, spec, count)

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
        positions: np.ndarray,
        feeds: Mapping[str, np.ndarray],
        fetch: str,
        first: int = 0,
    ) -> np.ndarray:
        """Run one position of each of a batch's streams from `first` on in one call.

        One position each, because the attention operator accepts no more in a batch.

        Args:
            batch: the streams' common buffers.
            positions: int64 [n], the absolute position of each stream.
            feeds: `input_ids`, `num_delay_tokens` and `blank_penalty`, each [n], and
                `audio_embeds`, [n, hidden_size].
            fetch: "step" for the sampled ids, logprobs and blank margins, "logits" for all logits.
            first: slot of the first of these streams.

        Returns:
            float32 [n, 3] or [n, vocab_size].

        Raises:
            DeviceError: the device's memory is full, or onnxruntime cannot run the graph.
        """
        cos, sin = batch.angles(positions)
        inputs = {
            "input_ids": feeds["input_ids"][:, None],
            "audio_embeds": feeds["audio_embeds"][:, None],
            "num_delay_tokens": feeds["num_delay_tokens"],
            "blank_penalty": feeds["blank_penalty"][:, None],
            "cos": cos,
            "sin": sin,
            "seqlens_k": buffer_rows(batch.spec, positions).astype(np.int32),
            "total_sequence_length": np.array(batch.spec.capacity, np.int32),
        }
        return batch.binding(first + len(positions), first).run(inputs, fetch)[:, 0]


def _sampled_tokens(steps: np.ndarray) -> list[SampledToken]:
    return [
        SampledToken(int(token_id), float(logprob), float(margin))
        for token_id, logprob, margin in steps
    ]
