"""The mel and encoder graphs: samples to audio embeddings, one chunk in each call."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..manifest import CacheSpec, Manifest
from .device.cache import KVCache
from .device.session import Session


class Encoder:
    """The mel graph and the encoder graph with their sessions."""

    def __init__(self, manifest: Manifest, mel: Session, session: Session):
        self.mel, self.session, self.spec = mel, session, manifest.caches["encoder"]
        inputs = {tensor.name: np.dtype(tensor.dtype) for tensor in session.graph.inputs}
        self.dtype = inputs["cos"]

    def new_cache(self, spec: CacheSpec | None = None) -> KVCache:
        """Return new buffers for the keys, values and convolution states of one stream.

        `spec` says how large they are; by default the manifest does.
        """
        return KVCache(self.session, spec or self.spec)

    def max_tokens(self, cache: KVCache) -> int:
        """Return the most tokens that the next call may encode."""
        return cache.slots_left // self.spec.rows_per_token

    def encode(self, cache: KVCache, samples: np.ndarray) -> np.ndarray:
        """Return the audio embeddings [tokens, hidden_size] of a stream's next tokens.

        Args:
            cache: the stream's; it advances.
            samples: float32 [n], full scale 1, from `look_back_samples` before the first token to
                `look_ahead_samples` after the last.

        Raises:
            DeviceError: the device's memory is full, or onnxruntime cannot run a graph.
        """
        input_features = self.mel.run({"audio": samples[None]})  # [1, n_mels, frames]
        rows = input_features.shape[2] // 2  # the first convolutions halve the rate
        return self.encode_features(
            cache, {"input_features": input_features, **cache.positions(rows)}
        )

    def encode_features(
        self, cache: KVCache, feeds: Mapping[str, np.ndarray], *, goes_on: bool = True
    ) -> np.ndarray:
        """Return audio embeddings as `encode` does, from mel frames that are made already.

        Args:
            cache: the stream's; it advances.
            feeds: `input_features`, and `cos` and `sin` of the cache's next rows.
            goes_on: whether another call follows; if not, a full cache is not shifted.

        Raises:
            DeviceError: as for `encode`.
        """
        rows = feeds["cos"].shape[1]
        output = cache.binding.run({**feeds, **cache.places(rows)}, "audio_embeds")
        if goes_on:
            cache.advance(rows)
        return output[0]
