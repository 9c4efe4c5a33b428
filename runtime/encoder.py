"""Samples to audio embeddings, a chunk of tokens a call."""

from __future__ import annotations

import numpy as np

from ..manifest import Manifest
from .device.cache import KVCache
from .device.session import Session


class Encoder:
    """The mel graph and the encoder graph."""

    def __init__(self, manifest: Manifest, mel: Session, session: Session):
        self.mel, self.session, self.spec = mel, session, manifest.caches["encoder"]

    def new_cache(self) -> KVCache:
        """Return buffers for one stream."""
        return KVCache(self.session, self.spec)

    def max_tokens(self, cache: KVCache) -> int:
        """Return how many tokens the next call may encode."""
        return cache.slots_left // self.spec.rows_per_token

    def encode(self, cache: KVCache, samples: np.ndarray) -> np.ndarray:
        """Return the audio embeddings [tokens, hidden_size] of the next tokens.

        samples: float32, from look_back before the first token to look_ahead after the last.
        """
        input_features = self.mel.run({"audio": samples[None]})  # [1, n_mels, frames]
        rows = input_features.shape[2] // 2  # the conv stem halves the mel rate
        feeds = {"input_features": input_features, **cache.positions(rows)}
        return self.session.step(cache, feeds, "audio_embeds")[0]
