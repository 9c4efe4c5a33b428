"""A recording in the engine: its audio embeddings, and the pieces whose decoders take them.

A file's is encoded ahead and may be decoded in several pieces; a live one is fed as it is spoken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from ..device.base import Buffer
from ..kept import NOTHING, Kept
from ..model import LoadedModel
from ..pieces.cutter import Cut, Cutter
from ..pieces.piece import Piece
from ..stream import Sampler
from .sound import Sound

BURST = 32  # positions of a decoder slot between two looks at it
STRETCH = 64  # audio embeddings that are freed together


@dataclass(frozen=True, slots=True)
class Prefix:
    """The decoder's state behind the silence before all audio, with which each piece begins."""

    next_id: int
    buffers: list[Buffer]  # keys and values, [1, kv_heads, positions, head_dim]


@dataclass(frozen=True, slots=True)
class Parked:
    """The state of a slot whose piece waits for another one."""

    rows: list[np.ndarray]  # keys and values
    entries: dict[str, Any]  # of the arrays with an entry for each slot
    size: int  # index of the slot's size


@dataclass(eq=False)
class PieceRun:
    """The decoding of one piece of a recording, which is often the whole."""

    recording: Recording
    piece: Piece
    place: int  # position of the uncut run whose audio embedding it takes next
    given: Sequence[int] = ()  # ids of its first tokens, where they are known
    sampler: Sampler | None = None
    is_done: bool = False  # all its tokens are written, and none in the next piece's silence
    is_dropped: bool = False  # the piece before it goes on in its place
    parked: Parked | None = None  # its slot's state, while another has the slot

    @property
    def is_ready(self) -> bool:
        """Return whether its decoding can begin: there is something, and it will not be cut."""
        recording = self.recording
        if self.piece.end is None and (recording.has_cuts_to_come or recording.error):
            return False
        return self.place < recording.num_encoded

    @property
    def stop(self) -> int | None:
        """Return the place before which it ends; None if that is not known yet."""
        whole = self.recording.num_places
        if self.piece.end is None:
            return whole
        stop = self.piece.position_of(self.piece.end + self.piece.checked)
        return stop if whole is None else min(stop, whole)


@dataclass(eq=False)
class Recording:
    """The audio embeddings of one recording, and the pieces that it is decoded in."""

    prefix: Prefix
    num_delay_tokens: int
    first: int  # place of the first audio embedding that depends on the audio
    events: SimpleQueue[Any]  # to which what becomes of it is handed on
    stop_at_eos: bool  # whether the model's end-of-text token ends its pieces
    runs: list[PieceRun] = field(default_factory=list)  # in order
    error: Exception | None = None  # that has ended it, and no other
    encode_seconds: float = 0.0
    num_places: int | None = None  # of the whole; known when all is encoded
    num_encoded: int = 0  # place after the last audio embedding
    # First place and audio embeddings [tokens, hidden_size] that a piece may still need
    _stretches: deque[tuple[int, np.ndarray]] = field(default_factory=deque)
    _num_bytes: int = 0  # of the stretches
    _lock: Lock = field(default_factory=Lock)  # of the stretches

    @property
    def is_live(self) -> bool:
        """Return whether it is fed as it is spoken, and goes before those that are not."""
        return True

    @property
    def most_places(self) -> int | None:
        """Return how many places the whole has at most; None if that is not known."""
        return self.num_places

    @property
    def has_cuts_to_come(self) -> bool:
        """Return whether its last piece may still be cut."""
        return False

    @property
    def tokens_ahead(self) -> int:
        """Return how many embeddings that piece has ahead which has the fewest."""
        return min(
            (self.num_encoded - run.place for run in self.runs if not run.is_done),
            default=self.num_encoded,
        )

    @property
    def num_bytes(self) -> int:
        """Return the bytes of the audio embeddings that are kept."""
        return self._num_bytes

    def append(self, audio_embeds: np.ndarray) -> list[PieceRun]:
        """Add the next audio embeddings, and return the pieces that begin with what is known."""
        with self._lock:
            for at in range(0, len(audio_embeds), STRETCH):
                part = audio_embeds[at : at + STRETCH].copy()
                self._stretches.append((self.num_encoded + at, part))
            self._num_bytes += audio_embeds.nbytes
        self.num_encoded += len(audio_embeds)
        return []

    def embeds(self, place: int, most: int) -> np.ndarray:
        """Return the audio embeddings from a place on, at most so many; maybe none."""
        with self._lock:
            for first, values in self._stretches:
                if first <= place < first + len(values):
                    return values[place - first : place - first + most]
        return np.zeros((0, 0))

    def forget(self) -> None:
        """Free the embeddings before the first piece that is not done.

        Those of later pieces stay, because an earlier one may turn out to go on into them.
        """
        needed = min((run.place for run in self.runs if not run.is_done), default=self.num_encoded)
        needed = self.num_encoded if self.error else needed
        with self._lock:
            while self._stretches and self._stretches[0][0] + len(self._stretches[0][1]) <= needed:
                self._num_bytes -= self._stretches.popleft()[1].nbytes

    def release(self) -> None:
        """Free all embeddings."""
        with self._lock:
            self._stretches.clear()
            self._num_bytes = 0

    def join(self, run: PieceRun) -> PieceRun | None:
        """Let a piece go on where the next one has begun, and return that one, if there is one."""
        after = self.runs.index(run) + 1
        if after == len(self.runs):
            return None
        right = self.runs.pop(after)
        right.is_dropped = True
        run.piece = run.piece.join(right.piece)
        return right


@dataclass(eq=False, kw_only=True)
class FileRecording(Recording):
    """A recording that can be read ahead of its decoding, and cut in silence."""

    sound: Sound
    new_sampler: Callable[[], Sampler | None]
    kept: Kept = NOTHING
    cutter: Cutter | None = None  # None keeps it whole
    is_settled: bool = True  # no cuts will follow those that are decided
    _cuts: deque[Cut] = field(default_factory=deque)  # decided, by the thread that reads

    @classmethod
    def of(
        cls,
        model: LoadedModel,
        sound: Sound,
        prefix: Prefix,
        num_delay_tokens: int,
        *,
        events: SimpleQueue[Any],
        new_sampler: Callable[[], Sampler | None] = lambda: None,
        kept: Kept = NOTHING,
        cutter: Cutter | None = None,
    ) -> FileRecording:
        """Return a recording of which nothing is encoded yet."""
        first, left = model.grid.first, model.manifest.streaming.left_pad_tokens
        found = cls(
            prefix,
            num_delay_tokens,
            first,
            events,
            stop_at_eos=True,
            num_encoded=first,
            sound=sound,
            new_sampler=new_sampler,
            kept=kept,
            cutter=cutter,
        )
        piece = Piece(left, num_delay_tokens)
        found.runs.append(PieceRun(found, piece, first, kept.given_ids, new_sampler()))
        found.is_settled = cutter is None
        if cutter:
            sound.on_samples, sound.on_end = found._hear, found._hear_end
        return found

    def _hear(self, samples: np.ndarray) -> None:
        """Let the planner of cuts take the next samples; called by the thread that reads."""
        assert self.cutter
        self._cuts.extend(self.cutter.push(samples))
        self.is_settled = self.cutter.whole_from is not None

    def _hear_end(self) -> None:
        assert self.cutter
        self._cuts.extend(self.cutter.finish())
        self.is_settled = True

    @property
    def is_live(self) -> bool:
        """Return that it can wait for live ones."""
        return False

    @property
    def most_places(self) -> int | None:
        """Return how many places the whole has at most, by the length that its source tells."""
        if self.num_places is not None:
            return self.num_places
        return self.sound.most_places

    @property
    def has_cuts_to_come(self) -> bool:
        """Return whether its last piece may still be cut."""
        return bool(self._cuts) or not self.is_settled

    def append(self, audio_embeds: np.ndarray) -> list[PieceRun]:
        """Add the next audio embeddings, and return the pieces that begin with what is known."""
        super().append(audio_embeds)
        begun = []
        while self._cuts and self.first + self._cuts[0].token < self.num_encoded:
            if run := self._cut(self._cuts.popleft()):
                begun.append(run)
        return begun

    @property
    def waits_for_cut(self) -> bool:
        """Return whether nothing of it can be decoded before its last piece is cut."""
        return self.has_cuts_to_come and all(run.is_done for run in self.runs[:-1])

    def _cut(self, cut: Cut) -> PieceRun | None:
        """End the last piece at a cut, and return the next; None if it has gone on beyond it."""
        left = self.runs[-1]
        # After a join it runs already, up to a burst further than its place says
        is_running = left.place > self.first + left.piece.begin
        if is_running and left.piece.position_of(cut.token) < left.place + 2 * BURST:
            return None
        left.piece, piece = left.piece.split(cut)
        given = self.kept.given_ids[cut.token :]
        run = PieceRun(self, piece, self.first + cut.token, given, self.new_sampler())
        self.runs.append(run)
        return run
