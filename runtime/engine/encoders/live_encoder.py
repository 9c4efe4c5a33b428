"""Encoders of live streams, each of which has a slot: all in one call, or one after the other.

A live stream brings a token of 80 ms at a time, and a call of the encoder for so little takes about
as long as reading its weights. `PagedEncoder`, on CUDA, and `BatchedEncoder` read them once for all
streams. Each takes a graph of its own; where the artifact or onnxruntime lack that,
`EncoderPerSlot` makes a call for each stream.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from ....errors import DeviceError
from ....manifest import GraphSpec
from ....memory import available_memory
from ...device.base import LENGTHS, lacks_lengths
from ...device.cache import BatchedKVCache
from ...device.cuda import Cuda
from ...device.session import Session
from ...memory import resident_bytes
from ...model import LoadedModel
from ...stream_state import StreamState
from .batched import BatchedEncoder, run_batch
from .paged import PagedEncoder
from .per_slot import EncoderPerSlot

_log = logging.getLogger(__name__)


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

    def seconds_of_call(self, count: int, tokens: int = 1) -> float:
        """Return how long `encode` takes for tokens of so many streams that began long ago.

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
    tick_tokens: int = 1,
) -> LiveEncoder:
    """Return an encoder for so many live streams, for all in one call where that can be had.

    Args:
        model: to encode with.
        slots: number of streams.
        start: of a stream behind the silence before all audio, from `silent_start` with any delay.
        notes: gets a sentence if streams are encoded one after the other: why, and what it costs.
        tick_tokens: of a stream in most calls.

    Raises:
        ArtifactError: the graph is damaged or does not fit the manifest.
        DeviceError: the buffers do not fit into the device's memory.
    """
    reasons = list[str]()
    if isinstance(device := model.device, Cuda):
        try:
            session = open_paged_graph(model)
        except DeviceError as error:
            reasons.append(str(error))
        else:
            _log.info("encoder: live streams are encoded together, with caches of pages")
            return PagedEncoder(model, session, device, slots, start, tick_tokens=tick_tokens)
    try:
        session = open_batch_graph(model)
    except DeviceError as error:
        reasons.append(str(error))
    else:
        _log.info("encoder: live streams are encoded together, with a buffer for each")
        return BatchedEncoder(model, session, slots, start)
    notes.append(
        "encoder: live streams are encoded one after the other, so that each reads all "
        f"weights: {'; '.join(dict.fromkeys(reasons))}"
    )
    return EncoderPerSlot(model, slots, start)


def open_paged_graph(model: LoadedModel) -> Session:
    """Open the graph for several streams whose caches are pages.

    Raises:
        ArtifactError: the graph is damaged or does not fit the manifest.
        DeviceError: the artifact lacks the graph, the device cannot run it, or its memory is too
            small for another copy of the encoder's weights.
    """
    facts = model.facts
    graph = facts.manifest.precisions[facts.precision].encoder_paged
    if graph is not None and (reason := lacks_lengths(graph)):
        raise DeviceError(reason)
    return _open(model, graph)


def open_batch_graph(model: LoadedModel) -> Session:
    """Open the graph for several streams, and try whether it is run as it must be.

    Raises:
        ArtifactError: the graph is damaged or does not fit the manifest.
        DeviceError: the artifact lacks the graph, the device or onnxruntime cannot run it, or
            memory is too small for its copy of the encoder's weights.
    """
    facts, encoder = model.facts, model.encoder
    graph = facts.manifest.precisions[facts.precision].encoder_batch
    if graph is not None and (reason := lacks_lengths(graph)):
        raise DeviceError(reason)
    session = _open(model, graph)

    # Run a call for no stream, which must write nothing: a provider could know the lengths in name
    # only
    rows = encoder.spec.rows_per_token
    batch = BatchedKVCache(session, replace(encoder.spec, keep=0, capacity=2 * rows), 2)
    audio = facts.manifest.config.audio
    features = np.ones((2, audio.n_mels, audio.frames_per_token), np.float32)
    none = np.zeros(2, np.int64)
    run_batch(batch, features, none, none, none)
    if any(buffer.read().any() for slot in (0, 1) for buffer in batch.cache(slot).buffers):
        raise DeviceError(
            f"{model.device.name}: onnxruntime ignores {LENGTHS} of {session.graph.path}"
        )
    return session


def _open(model: LoadedModel, graph: GraphSpec | None) -> Session:
    """Open a graph for several streams, which has the weights of the encoder once more.

    Raises:
        ArtifactError: it is damaged or does not fit the manifest.
        DeviceError: there is none, or the device has too little memory or cannot run it.
    """
    # Look for what stands in the way
    facts, device = model.facts, model.device
    if graph is None:
        raise DeviceError(
            "an earlier version made the artifact, without the graph for several; export again"
        )
    if not device.supports_batching:
        raise DeviceError(f"{device.name} advances one stream a call")
    weights = sum(facts.manifest.files[file].size for file in graph.data)
    on_device = device.name != "cpu"
    needed = resident_bytes(facts.precision, weights, 0, on_device=on_device)
    free = device.free_memory() if on_device else available_memory()
    if free is not None and free < needed:
        raise DeviceError(
            f"its graph for several takes about {needed / 1e9:.2f} GB more, and "
            f"{free / 1e9:.2f} GB are free"
        )

    # Open it
    facts.manifest.check_contents(facts.folder, graph.files)
    threads = model.encoder.session.ort.get_session_options().intra_op_num_threads
    return Session(facts.folder, graph, device, threads)
