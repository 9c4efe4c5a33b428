"""The samples that calls of a live encoder take, as mel frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...model import LoadedModel

MOST_TOKENS = 4  # of a stream in a call: every slot's buffer has room for so many behind its own


class TokenSamples:
    """The rule by which samples are tokens: each has its own, and all share those around them."""

    def __init__(self, model: LoadedModel):
        rules, audio = model.manifest.streaming, model.manifest.config.audio
        self._own = audio.samples_per_token
        self._around = rules.look_back_samples + rules.look_ahead_samples
        self._mel, self._n_mels = model.encoder.mel, audio.n_mels
        self._frames_per_token = audio.frames_per_token

    def count(self, samples: Mapping[int, np.ndarray], most: int) -> dict[int, int]:
        """Return the number of tokens by slot, each from 1 to `most`."""
        tokens = {slot: (len(each) - self._around) // self._own for slot, each in samples.items()}
        for slot, count in tokens.items():
            assert 0 < count <= most and len(samples[slot]) == count * self._own + self._around, (
                f"slot {slot}: {len(samples[slot])} samples are not 1 to {most} tokens"
            )
        return tokens

    def mel_frames(
        self, places: Mapping[int, int], samples: Mapping[int, np.ndarray], size: int
    ) -> np.ndarray:
        """Return the mel frames of a call, float32 [size, n_mels, frames].

        They are padded behind to those of the slot that brings most.

        Args:
            places: in the call, by slot.
            samples: by slot, of whole tokens.
            size: of the call; places that no slot has are zeros.
        """
        by_length: dict[int, list[int]] = {}
        for slot in places:
            by_length.setdefault(len(samples[slot]), []).append(slot)
        tokens = (max(by_length) - self._around) // self._own
        features = np.zeros((size, self._n_mels, tokens * self._frames_per_token), np.float32)
        for slots in by_length.values():
            made = self._mel.run({"audio": np.stack([samples[slot] for slot in slots])})
            features[[places[slot] for slot in slots], :, : made.shape[2]] = made
        return features

    def of(self, tokens: int) -> int:
        """Return the number of samples that so many tokens take."""
        return tokens * self._own + self._around

    def cut(self, samples: np.ndarray, first: int, count: int) -> np.ndarray:
        """Return the samples of `count` tokens from `first` on."""
        return samples[first * self._own : (first + count) * self._own + self._around]
