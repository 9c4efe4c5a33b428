"""The encoder's side of the engine: whose turn it is, and in which cache."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from time import perf_counter

import numpy as np

from ...errors import DeviceError
from ..device.base import Buffer
from ..device.cache import KVCache
from ..model import LoadedModel
from ..stream_state import StreamState
from .recording import FileRecording

MOST_CACHES = 4  # recordings whose encoding is under way, without their state being moved
QUEUE_BYTES = 512 << 20  # audio embeddings that wait, of all recordings
SHORT_SECONDS = 300.0  # of a recording that is encoded to the end when its turn has come


class Encoding:
    """Recordings that are being encoded, each ahead of its decoding."""

    def __init__(self, model: LoadedModel, start: StreamState, notes: list[str]):
        """Begin without recordings.

        Args:
            model: to encode with.
            start: of a stream behind the silence before all audio.
            notes: gets a sentence if fewer caches fit into memory than are wanted.
        """
        self.model, self._notes = model, notes
        # Not encoded to the end, in the order they came; and all whose embeddings wait
        self.recordings, self.held = dict[FileRecording, None](), list[FileRecording]()
        self._start_position = start.position.encoder
        arrays = [array for name, array in start.arrays.items() if name.startswith("encoder_")]
        self._start, self._start_buffers = arrays, list[Buffer]()
        self._caches: dict[FileRecording, KVCache] = {}
        self._free: list[KVCache] = []
        self._num_caches, self._most_caches = 0, MOST_CACHES
        self._parked: dict[FileRecording, tuple[int, list[np.ndarray]]] = {}
        self._turns: list[FileRecording] = []  # that were to come last, the next one first

    def add(self, recording: FileRecording) -> None:
        """Add a recording."""
        self.recordings[recording] = None
        self.held.append(recording)

    @property
    def is_busy(self) -> bool:
        """Return whether anything is left to encode."""
        return bool(self.recordings)

    def choose(self, *, brings_pieces: bool = False) -> FileRecording | None:
        """Return the recording that is to be encoded next; None if none can or should be.

        With `brings_pieces` only one of which further pieces may begin.
        """
        self._take_caches_back()
        queued = 0
        for recording in self.held:
            recording.forget()
            queued += recording.num_bytes
        self.held = [each for each in self.held if each.num_bytes or each in self.recordings]
        has_cache = bool(self._free or self._num_caches < self._most_caches or self._movable)
        num_begun = len(self._caches) + len(self._parked)
        has_room, share = queued < QUEUE_BYTES, QUEUE_BYTES // (2 * max(MOST_CACHES, num_begun))

        def rank(each: FileRecording) -> tuple[int, int] | None:
            """Return a recording's turn, lower ones first: long ones let short ones pass."""
            is_begun, ahead = each in self._caches or each in self._parked, each.tokens_ahead
            if brings_pieces and is_begun and not each.has_cuts_to_come:
                return None
            if is_begun and ahead < self.model.grid.chunk:  # its decoder waits, or soon will
                return 0, ahead
            if each not in self._caches and not has_cache:
                return None
            is_short = each.sound.source.duration <= SHORT_SECONDS
            if is_short and is_begun:  # it keeps its cache until it is encoded
                return 1, 0
            # What waits for a cut frees nothing before it has come, however long that takes
            waits = is_begun and each.waits_for_cut
            if not has_room and not waits:
                return None
            if is_short:
                return 2, 0
            if each.num_bytes >= share and len(self.recordings) > 1 and not waits:
                return None
            if each.cutter and not is_begun and num_begun >= MOST_CACHES:
                return None
            return (3 if each in self._caches else 4 if is_begun else 5), 0

        ranks = [(rank(each), each) for each in self.recordings if not each.error]
        turns = [(turn, each) for turn, each in ranks if turn is not None]
        self._turns = [each for _, each in sorted(turns, key=lambda turn: turn[0])]
        return next((each for each in self._turns if each.sound.is_ready), None)

    @property
    def _movable(self) -> list[FileRecording]:
        """Return the recordings whose cache another one may take; short ones end soon."""
        return [each for each in self._caches if each.sound.source.duration > SHORT_SECONDS]

    def encode(self, recording: FileRecording) -> tuple[np.ndarray | None, float]:
        """Run the next call for a recording.

        Returns:
            the audio embeddings [tokens, hidden_size], None at the end; and the seconds it took.

        Raises:
            Exception: reading it or the call has failed.
        """
        chunk = recording.sound.take()
        if chunk is None:
            return None, 0.0
        cache = self._cache_of(recording)
        began = perf_counter()
        embeds = self.model.encoder.encode_features(cache, chunk.feeds, goes_on=not chunk.is_last)
        return embeds[: chunk.tokens], perf_counter() - began

    def drop(self, recording: FileRecording) -> None:
        """Encode no more of a recording, which may be the one that is being encoded."""
        self.recordings.pop(recording, None)

    def _take_caches_back(self) -> None:
        """Free the caches of dropped recordings, in the thread that encodes."""
        for each in [*self._caches, *self._parked]:
            if each not in self.recordings:
                self._parked.pop(each, None)
                if cache := self._caches.pop(each, None):
                    self._free.append(cache)

    def release(self) -> None:
        """Free all caches."""
        self._caches.clear()
        self._free.clear()
        self._parked.clear()
        self._start_buffers = []

    def read_ahead(self, pool: ThreadPoolExecutor, told: Callable[[], None]) -> None:
        """Let threads read for the recordings whose turn may come next."""
        known = set(self._turns)
        new = (each for each in self.recordings if each not in known)
        for recording in islice(chain(self._turns, new), 2 * MOST_CACHES):
            recording.sound.read_ahead(pool, told)

    def _cache_of(self, recording: FileRecording) -> KVCache:
        """Return the recording's cache; take one from another recording if there is none left."""
        if cache := self._caches.get(recording):
            return cache
        cache = self._free.pop() if self._free else self._new_cache()
        if cache is None:
            # The one with the most embeddings ahead needs its cache last
            owner = max(self._movable or self._caches, key=lambda each: each.tokens_ahead)
            cache = self._caches.pop(owner)
            self._parked[owner] = cache.position, [rows.copy() for rows in cache.save()]
        self._caches[recording] = cache
        if parked := self._parked.pop(recording, None):
            cache.restore(*parked)
        else:
            self._restart(cache)
        return cache

    def _new_cache(self) -> KVCache | None:
        if self._num_caches == self._most_caches:
            return None
        try:
            cache = self.model.encoder.new_cache(self.model.grid.spec)
        except DeviceError as error:
            if not self._num_caches:
                raise
            self._most_caches = self._num_caches
            self._notes.append(f"encoder: {self._num_caches} caches instead of more ({error})")
            return None
        self._num_caches += 1
        return cache

    def _restart(self, cache: KVCache) -> None:
        """Bring a cache into the state behind the silence before all audio."""
        if not self._start_buffers:
            states = len(cache.states)
            self._start_buffers = [self.model.device.buffer(rows) for rows in self._start[states:]]
        cache.position = self._start_position
        for state, values in zip(cache.states, self._start, strict=False):
            state.write(values)
        rows = self._start_buffers[0].shape[2]
        self.model.device.copy_all(self._start_buffers, cache.buffers, rows)
