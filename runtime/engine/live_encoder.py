"""Encoders of live streams, each of which has a slot: all in one call, or one after the other.

A live stream brings a token of 80 ms at a time, and a call of the encoder for so little takes about
as long as reading its weights. `BatchedEncoder` reads them once for all streams. It takes a graph
of its own, whose attention knows how many rows each stream brings; where the artifact or
onnxruntime lack that, `EncoderPerSlot` makes a call for each stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Protocol

import numpy as np

from ...errors import DeviceError
from ...memory import available_memory
from ..device.base import LENGTHS, Buffer, Device, lacks_lengths
from ..device.cache import BatchedKVCache, KVCache
from ..device.session import Session
from ..memory import resident_bytes
from ..model import LoadedModel
from ..stream_state import StreamState
from .calls import plan_calls

MOST_TOKENS = 4  # of a stream in a call: every slot's buffer has room for so many behind its own


class LiveEncoder(Protocol):
    """The encoder of several live streams. One thread uses it.

    A stream begins with `start` and ends with `free` or with the next `start` in its slot. After an
    error of `encode` the streams of that call are lost: their slots must be started again. All
    others go on.
    """

    slots: int  # streams at a time; they are numbered from 0
    max_tokens: int  # of a stream in a call

    def start(self, slot: int) -> None:
        """Begin a stream in a slot, behind the silence that precedes all audio.

        Its first samples are those that `Stream` has left behind that silence: the array `samples`
        of the state that `silent_start` returns.

        Raises:
            DeviceError: the device's memory is full.
        """
        ...

    def encode(self, samples: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the audio embeddings [tokens, hidden_size] of the next tokens of some streams.

        Args:
            samples: by slot, float32 [n], full scale 1, from `look_back_samples` before the first
                token to `look_ahead_samples` after the last. Streams may bring different numbers of
                tokens, from 1 to `max_tokens`; a slot that is missing brings none and costs
                little or nothing.

        Raises:
            DeviceError: the device's memory is full, or onnxruntime cannot run a graph.
        """
        ...

    def free(self, slot: int) -> None:
        """End the stream of a slot, which may be empty already."""
        ...

    def seconds_of_call(self, count: int) -> float:
        """Return how long `encode` takes for a token of so many streams that began long ago.

        No slot may have a stream.
        """
        ...

    def close(self) -> None:
        """Free the buffers of all slots; nothing may be called afterwards."""
        ...


def open_live_encoder(
    model: LoadedModel,
    slots: int,
    start: StreamState,
    notes: list[str],
    *,
    max_tokens: int = MOST_TOKENS,
) -> LiveEncoder:
    """Return an encoder for so many live streams, for all in one call where that can be had.

    Args:
        model: to encode with.
        slots: number of streams.
        start: of a stream behind the silence before all audio, from `silent_start` with any delay.
        notes: gets a sentence if streams are encoded one after the other: why, and what it costs.
        max_tokens: the most tokens of a stream in a call.

    Raises:
        ArtifactError: the graph is damaged or does not fit the manifest.
        DeviceError: the buffers do not fit into the device's memory.
    """
    try:
        session = open_batch_graph(model)
    except DeviceError as error:
        notes.append(
            "encoder: live streams are encoded one after the other, so that each reads all "
            f"weights: {error}"
        )
        return EncoderPerSlot(model, slots, start, max_tokens=max_tokens)
    return BatchedEncoder(model, session, slots, start, max_tokens=max_tokens)


def open_batch_graph(model: LoadedModel) -> Session:
    """Open the graph for several streams, and try whether it is run as it must be.

    Raises:
        ArtifactError: the graph is damaged or does not fit the manifest.
        DeviceError: the artifact lacks the graph, the device or onnxruntime cannot run it, or
            memory is too small for its copy of the encoder's weights.
    """
    # Open it
    facts, encoder = model.facts, model.encoder
    if reason := _obstacle(model):
        raise DeviceError(reason)
    graph = facts.manifest.precisions[facts.precision].encoder_batch
    assert graph is not None
    facts.manifest.check_contents(facts.folder, graph.files)
    threads = encoder.session.ort.get_session_options().intra_op_num_threads
    session = Session(facts.folder, graph, model.device, threads)

    # Run a call for no stream, which must write nothing: a provider could know the lengths in name
    # only
    rows = encoder.spec.rows_per_token
    batch = BatchedKVCache(session, replace(encoder.spec, keep=0, capacity=2 * rows), 2)
    audio = facts.manifest.config.audio
    features = np.ones((2, audio.n_mels, audio.frames_per_token), np.float32)
    none = np.zeros(2, np.int64)
    _run(batch, features, none, none, none)
    if any(buffer.read().any() for slot in (0, 1) for buffer in batch.cache(slot).buffers):
        raise DeviceError(f"{model.device.name}: onnxruntime ignores {LENGTHS} of {graph.path}")
    return session


def _obstacle(model: LoadedModel) -> str | None:
    """Return why streams cannot be encoded in one call, as far as that shows without trying."""
    facts, device = model.facts, model.device
    graph = facts.manifest.precisions[facts.precision].encoder_batch
    if graph is None:
        return "an earlier version made the artifact, without the graph for several; export again"
    if not device.supports_batching:
        return f"{device.name} advances one stream a call"
    if reason := lacks_lengths(graph):
        return reason
    weights = sum(facts.manifest.files[file].size for file in graph.data)
    on_device = device.name != "cpu"
    needed = resident_bytes(facts.precision, weights, 0, on_device=on_device)
    free = device.free_memory() if on_device else available_memory()
    if free is not None and free < needed:
        return (
            f"its graph for several takes about {needed / 1e9:.2f} GB more, and "
            f"{free / 1e9:.2f} GB are free"
        )
    return None


class BatchedEncoder:
    """All streams in one call, whose attention takes the number of rows of each.

    Buffers are larger than those of a single stream by the padding of a call: the rows of the slot
    that brings most are there for every slot, idle ones included, although nothing is written
    there. When a slot has used up the rows of a single stream, its last `keep` are shifted to the
    front, so a slot's rows depend on the sizes of its calls and not on its position alone.
    """

    def __init__(
        self,
        model: LoadedModel,
        session: Session,
        slots: int,
        start: StreamState,
        *,
        max_tokens: int = MOST_TOKENS,
    ):
        """Make the buffers of all slots; `session` is of the graph for several streams.

        Raises:
            DeviceError: the device's memory is full.
        """
        encoder, audio = model.encoder, model.manifest.config.audio
        self.slots, self.max_tokens, self._spec = slots, max_tokens, encoder.spec
        self._mel, self._device, self._start = encoder.mel, model.device, _Start(model, start)
        self._samples = _Samples(model)
        most_rows = max_tokens * self._spec.rows_per_token
        self._capacity = self._spec.capacity + most_rows - self._spec.rows_per_token
        self._batch = BatchedKVCache(session, replace(self._spec, capacity=self._capacity), slots)
        self._position = np.zeros(slots, np.int64)
        self._rows = np.zeros(slots, np.int64)  # written to the buffers; 0 in free slots
        self._full = np.zeros(slots, np.int64)  # rows from which on they are shifted
        self._n_mels, self._frames_per_token = audio.n_mels, audio.frames_per_token

    def start(self, slot: int) -> None:
        """Begin a stream in a slot."""
        self._start.write(self._batch.cache(slot))
        spec, position = self._spec, self._start.position
        self._position[slot], self._rows[slot] = position, spec.row(position)
        # A shift takes far longer than a row of a call. Streams that begin together would all be
        # shifted in the same call, for ever, so their first shifts come at different times.
        turn = slot % ((spec.capacity - spec.keep) // spec.rows_per_token)
        self._full[slot] = spec.capacity - turn * spec.rows_per_token

    def encode(self, samples: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the audio embeddings of the next tokens of some streams."""
        tokens = self._samples.count(samples, self.max_tokens)
        found: dict[int, np.ndarray] = {}
        for first, last in plan_calls(tokens, self._device.call_tokens):
            part = {slot: tokens[slot] for slot in range(first, last) if slot in tokens}
            if not first:
                last = self._device.batch_rows(last, self.slots)
            found |= self._encode(first, last, part, samples)
        return found

    def _encode(
        self, first: int, last: int, tokens: Mapping[int, int], samples: Mapping[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """Run a call with the slots from `first` to before `last`; tokens are given by slot."""
        # Lay out the mel frames, padded behind to those of the slot that brings most
        frames = max(tokens.values()) * self._frames_per_token
        features = np.zeros((last - first, self._n_mels, frames), np.float32)
        by_count: dict[int, list[int]] = {}
        for slot, count in tokens.items():
            assert self._rows[slot], f"slot {slot} has no stream"
            by_count.setdefault(count, []).append(slot)
        for slots in by_count.values():
            made = self._mel.run({"audio": np.stack([samples[slot] for slot in slots])})
            features[np.array(slots) - first, :, : made.shape[2]] = made

        # Run the call
        new = np.zeros(last - first, np.int64)
        for slot, count in tokens.items():
            new[slot - first] = count * self._spec.rows_per_token
        at = slice(first, last)
        output = _run(self._batch, features, self._position[at], self._rows[at], new, first)

        # Count the rows, and shift the buffers that are full
        self._position[at] += new
        self._rows[at] += new
        for slot in tokens:
            if self._rows[slot] >= self._full[slot]:
                self._shift(slot)
        return {slot: output[slot - first, :count] for slot, count in tokens.items()}

    def _shift(self, slot: int) -> None:
        """Copy the last `keep` rows of a slot to the front, and all behind them, which are free."""
        unused = self._capacity - int(self._rows[slot])
        buffers = self._batch.cache(slot).buffers
        self._device.shift_all(buffers, self._spec.keep + unused)
        self._rows[slot], self._full[slot] = self._spec.keep, self._spec.capacity

    def seconds_of_call(self, count: int) -> float:
        """Return how long calls take for a token of so many streams, with full buffers."""
        self._rows[:count] = self._spec.capacity - 2 * self._spec.rows_per_token
        self._full[:count] = self._spec.capacity
        samples = np.zeros(self._samples.of(1), np.float32)
        began = perf_counter()
        self.encode(dict.fromkeys(range(count), samples))
        seconds = perf_counter() - began
        for slot in range(count):
            self.free(slot)
        return seconds

    def free(self, slot: int) -> None:
        """End the stream of a slot."""
        self._position[slot] = self._rows[slot] = 0

    def close(self) -> None:
        """Free the graph and the buffers."""
        del self._batch, self._start


def _run(
    batch: BatchedKVCache,
    features: np.ndarray,
    positions: np.ndarray,
    rows: np.ndarray,
    new: np.ndarray,
    first: int = 0,
) -> np.ndarray:
    """Run a call for the slots from `first` on.

    Args:
        batch: the caches of all slots.
        features: mel frames, float32 [slots, n_mels, frames], padded behind.
        positions: of the slots' next rows, int64 [slots].
        rows: that each slot's buffers hold, int64 [slots].
        new: rows that each slot brings, int64 [slots].
        first: slot of the call.

    Returns:
        The audio embeddings [slots, tokens, hidden_size]; those of padding mean nothing.
    """
    count, width = len(features), features.shape[2] // 2  # the convolutions halve the rate
    places = positions[:, None] + np.arange(width)
    cos, sin = (part.reshape(count, width, -1) for part in batch.angles(places.ravel()))
    feeds = {
        "input_features": features,
        "cos": cos,
        "sin": sin,
        # Of a free slot there is no last row
        "seqlens_k": np.maximum(rows + new - 1, 0).astype(np.int32),
        "total_sequence_length": np.array(batch.spec.capacity, np.int32),
        LENGTHS: new.astype(np.int32),
    }
    return batch.binding(first + count, first).run(feeds, "audio_embeds")


class EncoderPerSlot:
    """A call for each stream, each with a cache of its own."""

    def __init__(
        self, model: LoadedModel, slots: int, start: StreamState, *, max_tokens: int = MOST_TOKENS
    ):
        """Prepare slots, whose buffers are made when they are first used."""
        self.slots, self.max_tokens = slots, max_tokens
        self._encoder, self._start = model.encoder, _Start(model, start)
        self._samples = _Samples(model)
        self._caches: dict[int, KVCache] = {}  # by slot
        self._unused: list[KVCache] = []

    def start(self, slot: int) -> None:
        """Begin a stream in a slot."""
        self.free(slot)
        cache = self._unused.pop() if self._unused else self._encoder.new_cache()
        self._start.write(cache)
        self._caches[slot] = cache

    def encode(self, samples: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the audio embeddings of the next tokens of some streams."""
        tokens = self._samples.count(samples, self.max_tokens)
        return {slot: self._encode(slot, samples[slot], tokens[slot]) for slot in samples}

    def _encode(self, slot: int, samples: np.ndarray, tokens: int) -> np.ndarray:
        assert slot in self._caches, f"slot {slot} has no stream"
        cache, done, found = self._caches[slot], 0, list[np.ndarray]()
        while done < tokens:  # calls may not cross a shift
            count = min(tokens - done, self._encoder.max_tokens(cache))
            found.append(self._encoder.encode(cache, self._samples.cut(samples, done, count)))
            done += count
        return np.concatenate(found)

    def seconds_of_call(self, count: int) -> float:
        """Return how long calls take for a token of so many streams, with full buffers."""
        self.start(0)
        spec = self._encoder.spec
        self._caches[0].position = spec.capacity - 2 * spec.rows_per_token
        samples = np.zeros(self._samples.of(1), np.float32)
        began = perf_counter()
        self.encode({0: samples})
        seconds = perf_counter() - began
        self.free(0)
        return count * seconds

    def free(self, slot: int) -> None:
        """End the stream of a slot."""
        if cache := self._caches.pop(slot, None):
            self._unused.append(cache)

    def close(self) -> None:
        """Free the buffers of all slots."""
        self._caches.clear()
        self._unused.clear()


class _Start:
    """The encoder's state behind the silence before all audio, which is copied to a cache."""

    def __init__(self, model: LoadedModel, state: StreamState):
        self.position = state.position.encoder
        self._device: Device = model.device
        self._arrays = [rows for name, rows in state.arrays.items() if name.startswith("encoder_")]
        self._buffers: list[Buffer] = []  # keys and values, in the device's memory

    def write(self, cache: KVCache) -> None:
        """Bring a cache into this state."""
        if not self._device.supports_batching:
            cache.restore(self.position, self._arrays)
            return
        count = len(cache.states)
        if not self._buffers:
            self._buffers = [self._device.buffer(rows) for rows in self._arrays[count:]]
        for state, values in zip(cache.states, self._arrays[:count], strict=True):
            state.write(values)
        self._device.copy_all(self._buffers, cache.buffers, self._buffers[0].shape[2])
        cache.position = self.position


class _Samples:
    """The rule by which samples are tokens: each has its own, and all share those around them."""

    def __init__(self, model: LoadedModel):
        rules = model.manifest.streaming
        self._own = model.manifest.config.audio.samples_per_token
        self._around = rules.look_back_samples + rules.look_ahead_samples

    def count(self, samples: Mapping[int, np.ndarray], most: int) -> dict[int, int]:
        """Return the number of tokens by slot, each from 1 to `most`."""
        tokens = {slot: (len(each) - self._around) // self._own for slot, each in samples.items()}
        for slot, count in tokens.items():
            assert 0 < count <= most and len(samples[slot]) == count * self._own + self._around, (
                f"slot {slot}: {len(samples[slot])} samples are not 1 to {most} tokens"
            )
        return tokens

    def of(self, tokens: int) -> int:
        """Return the number of samples that so many tokens take."""
        return tokens * self._own + self._around

    def cut(self, samples: np.ndarray, first: int, count: int) -> np.ndarray:
        """Return the samples of `count` tokens from `first` on."""
        return samples[first * self._own : (first + count) * self._own + self._around]
