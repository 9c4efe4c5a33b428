"""The samples that calls of a live encoder take, as mel frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import numpy as np

from ...model import LoadedModel

CATCH_UP = 16  # tokens that a call may take of all streams together that catch up
MOST_TOKENS = 4  # of a stream in a call: every slot's buffer has room for so many behind its own


class TokenSamples:
    """The rule by which samples are tokens: each has its own, and all share those around them."""

    def __init__(self, model: LoadedModel):
        rules, audio = model.manifest.streaming, model.manifest.config.audio
        self._own = audio.samples_per_token
        self._around = rules.look_back_samples + rules.look_ahead_samples
        self._mel = model.encoder.mel
        self._per_frame = audio.samples_per_token // audio.frames_per_token

    def count(self, samples: Mapping[int, np.ndarray], most: int) -> dict[int, int]:
        """Return the number of tokens by slot, each from 1 to `most`."""
        tokens = {slot: (len(each) - self._around) // self._own for slot, each in samples.items()}
        for slot, count in tokens.items():
            assert 0 < count <= most and len(samples[slot]) == count * self._own + self._around, (
                f"slot {slot}: {len(samples[slot])} samples are not 1 to {most} tokens"
            )
        return tokens

    def mel_frames(
        self, places: Mapping[int, int], samples: Mapping[int, np.ndarray], size: int, tokens: int
    ) -> np.ndarray:
        """Return the mel frames of a call, float32 [size, n_mels, frames].

        Frames behind a stream's own are padding and mean nothing.

        Args:
            places: in the call, by slot.
            samples: by slot, of whole tokens.
            size: of the call; places that no slot has are zeros.
            tokens: for which there are frames, at least as many as a slot brings.
        """
        # Put the streams' samples one behind the other, each from the beginning of a frame on:
        # one long convolution is several times as fast as many short ones
        longest = self.of(tokens)
        frames = -(-longest // self._per_frame)  # from one stream's first to the next one's
        joined = np.zeros(len(places) * frames * self._per_frame + self._around, np.float32)
        for i, slot in enumerate(places):
            first = i * frames * self._per_frame
            joined[first : first + len(samples[slot])] = samples[slot]
        found = self._mel.run({"audio": joined[None]})[0]

        # Take them apart
        own = (longest - self._around) // self._per_frame
        features = np.zeros((size, len(found), own), np.float32)
        apart = found.reshape(len(found), -1, frames).transpose(1, 0, 2)
        features[list(places.values())] = apart[:, :, :own]
        return features

    def time_call(
        self, encode: Callable[[Mapping[int, np.ndarray]], object], count: int, tokens: int
    ) -> float:
        """Return how many seconds `encode` takes for tokens of silence in the first slots."""
        samples = dict.fromkeys(range(count), np.zeros(self.of(tokens), np.float32))
        began = perf_counter()
        encode(samples)
        return perf_counter() - began

    def of(self, tokens: int) -> int:
        """Return the number of samples that so many tokens take."""
        return tokens * self._own + self._around

    def cut(self, samples: np.ndarray, first: int, count: int) -> np.ndarray:
        """Return the samples of `count` tokens from `first` on."""
        return samples[first * self._own : (first + count) * self._own + self._around]
