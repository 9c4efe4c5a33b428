"""Live streams for encoders of many: what each encodes and writes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from support.recordings import babble

from voxtral_onnx.runtime.device.cache import KVCache
from voxtral_onnx.runtime.model import LoadedModel
from voxtral_onnx.runtime.stream import Stream, silent_start
from voxtral_onnx.runtime.stream_state import StreamState
from voxtral_onnx.runtime.writer import StreamOptions


def start_of(model: LoadedModel) -> StreamState:
    """The state behind the silence before all audio."""
    return silent_start(model, model.manifest.streaming.default_delay_tokens, None)


@dataclass
class Feeder:
    """The samples of one stream, from which calls take tokens; it begins anew at its end."""

    model: LoadedModel
    samples: np.ndarray
    taken: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        rules = self.model.manifest.streaming
        self.own = self.model.manifest.config.audio.samples_per_token
        self.around = rules.look_back_samples + rules.look_ahead_samples
        self.samples = np.concatenate((start_of(self.model).arrays["samples"], self.samples))
        self.at = 0

    @property
    def tokens_left(self) -> int:
        return (len(self.samples) - self.around - self.at) // self.own

    def take(self, tokens: int) -> np.ndarray:
        """The samples of the next tokens, with those around them."""
        if self.tokens_left < tokens:
            self.at = 0
        taken = self.samples[self.at : self.at + tokens * self.own + self.around]
        self.at += tokens * self.own
        self.taken.append(taken)
        return taken


class Streams:
    """Streams in the slots of an encoder, each with what it has encoded."""

    def __init__(self, model: LoadedModel, encoder: Any, most_error: float):
        self.model, self.encoder, self.most_error, self.begun = model, encoder, most_error, 0
        self.feeders: dict[int, Feeder] = {}
        self.found: dict[int, list[np.ndarray]] = {}
        self.errors: list[float] = []

    def open(self, slot: int) -> None:
        self.close(slot)
        self.begun += 1
        self.feeders[slot] = Feeder(self.model, babble(40_000 + self.begun))
        self.found[slot] = []
        self.encoder.start(slot)

    def push(self, tokens: dict[int, int]) -> None:
        samples = {slot: self.feeders[slot].take(count) for slot, count in tokens.items()}
        for slot, embeds in self.encoder.encode(samples).items():
            assert len(embeds) == tokens[slot]
            self.found[slot].append(embeds)

    def close(self, slot: int) -> None:
        """End the stream of a slot, and compare it with what it gives alone."""
        if feeder := self.feeders.pop(slot, None):
            self.encoder.free(slot)
            if found := self.found.pop(slot):
                expected = alone(self.model, feeder.taken, most=1)
                self.errors.append(errors(np.concatenate(found), expected).max())
                assert self.errors[-1] < self.most_error

    def close_all(self) -> None:
        for slot in list(self.feeders):
            self.close(slot)


def alone(model: LoadedModel, pushes: Iterable[np.ndarray], *, most: int = 16) -> np.ndarray:
    """The audio embeddings [tokens, hidden_size] of one stream with the graph for one.

    Calls take the pushes as they are, but `most` tokens at most.
    """
    cache, found = started(model), []
    own = model.manifest.config.audio.samples_per_token
    rules = model.manifest.streaming
    around = rules.look_back_samples + rules.look_ahead_samples
    for samples in pushes:
        tokens = (len(samples) - around) // own
        while tokens:
            count = min(tokens, most, model.encoder.max_tokens(cache))
            found.append(model.encoder.encode(cache, samples[: count * own + around]))
            samples, tokens = samples[count * own :], tokens - count
    return np.concatenate(found)


def started(model: LoadedModel) -> KVCache:
    """A cache behind the silence before all audio."""
    state, cache = start_of(model), model.encoder.new_cache()
    rows = [array for name, array in state.arrays.items() if name.startswith("encoder_")]
    cache.restore(state.position.encoder, rows)
    return cache


def written(model: LoadedModel, embeds: np.ndarray) -> np.ndarray:
    """The token ids that a stream writes of audio embeddings, position by position."""
    stream = Stream(model, StreamOptions(model.manifest.streaming.default_delay_tokens))
    stream.load_state(start_of(model))
    return np.array([token.token_id for token in stream.decode(embeds)])


def errors(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The distance of each embedding from the expected one, relative to that one's length."""
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    return np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
