"""Decoder slots of one capacity, which advance in lockstep: by a position of each in every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from time import perf_counter

import numpy as np

from ...manifest import CacheSpec
from ..device.base import Buffer
from ..device.cache import buffer_rows
from ..guard import blank_penalties
from ..model import LoadedModel
from ..tokens import CLOSE_MARGIN, SampledToken
from .recording import BURST, PieceRun
from .written import Burst, End


@dataclass(frozen=True, slots=True)
class Prefix:
    """The decoder's state behind the silence before all audio, with which each piece begins."""

    next_id: int
    buffers: list[Buffer]  # keys and values, [1, kv_heads, positions, head_dim]


class _State:
    """Arrays with an entry for each slot: where it is, and its current burst of positions."""

    def __init__(self, count: int, hidden_size: int, dtype: np.dtype):
        self.position = np.zeros(count, np.int64)
        self.next_id = np.zeros(count, np.int64)
        self.blanks = np.zeros(count, np.int64)  # written in a row
        self.delay = np.zeros(count, np.int64)
        self.asked_from = np.zeros(count, np.int64)  # position that samples the first token
        self.given_until = np.zeros(count, np.int64)  # position after those of known tokens
        self.checked_from = np.zeros(count, np.int64)  # position of the first in another piece
        self.has_spilled = np.zeros(count, bool)  # text was written there
        self.embeds = np.zeros((count, BURST, hidden_size), dtype)
        self.sampled = np.zeros((count, BURST, 3), np.float32)  # ids, logprobs, blank margins
        self.have, self.used = np.zeros(count, np.int64), np.zeros(count, np.int64)  # embeddings
        self.num_close = np.zeros(count, np.int64)
        self.seconds = np.zeros(count)

    def move(self, source: int, target: int) -> None:
        """Copy all entries of a slot to another."""
        for array in vars(self).values():
            array[target] = array[source]


class Slots:
    """Slots for pieces of up to `spec.capacity` positions, or for all if they may shift."""

    def __init__(
        self,
        model: LoadedModel,
        spec: CacheSpec,
        count: int,
        prefix: Prefix,
        *,
        may_shift: bool,
        guard: bool,
        is_exact: bool,
        written: Callable[[Burst | End], None],
        take_next: Callable[[], PieceRun | None],
    ):
        """Make the slots' buffers.

        Args:
            model: to decode with.
            spec: of each slot's cache.
            count: number of slots.
            prefix: of all pieces.
            may_shift: whether the oldest positions make room for new ones, as the model's window
                or `context` says; otherwise a piece that needs more room has outgrown its slot.
            guard: whether to make text likelier after many blanks.
            is_exact: whether close decisions are made again alone.
            written: called with the tokens of a piece, and with its end, when it sets `is_done`
                unless the piece goes on.
            take_next: returns a piece that is to begin in a slot that has become free.

        Raises:
            DeviceError: the device's memory is full.
        """
        self.model, self.spec, self.count, self._may_shift = model, spec, count, may_shift
        self._prefix, self._guard, self._is_exact = prefix, guard, is_exact
        self._written, self._take_next = written, take_next
        self._batch = model.decoder.new_batch(spec, count)
        self._ids = model.manifest.tokens
        self._state = _State(count, model.manifest.config.decoder.hidden_size, self._batch.dtype)
        self.runs: list[PieceRun] = []  # in the first slots
        self._tokens: dict[PieceRun, list[SampledToken]] = {}  # of this burst, sampled in Python

    @property
    def has_room(self) -> bool:
        """Return whether a slot is free."""
        return len(self.runs) < self.count

    @property
    def num_starving(self) -> int:
        """Return how many slots wait for embeddings."""
        count = len(self.runs)
        return int((self._state.used[:count] == self._state.have[:count]).sum())

    def start(self, run: PieceRun) -> None:
        """Begin a piece in a free slot, behind the silence before all audio."""
        self.runs.append(run)
        self._begin(len(self.runs) - 1)

    def _begin(self, slot: int) -> None:
        """Begin the piece of a slot."""
        state, run, buffers = self._state, self.runs[slot], self._prefix.buffers
        piece = run.piece
        self.model.device.copy_all(buffers, self._batch.cache(slot).buffers, buffers[0].shape[2])
        state.position[slot] = run.place - piece.begin
        state.next_id[slot] = self._prefix.next_id
        state.blanks[slot] = piece.blanks
        state.delay[slot] = piece.num_delay_tokens
        state.asked_from[slot] = piece.own(piece.position_of(piece.begin))
        state.given_until[slot] = state.asked_from[slot] + len(run.given)
        state.has_spilled[slot] = False
        for counts in (state.have, state.used, state.num_close, state.seconds):
            counts[slot] = 0
        self._tokens[run] = []
        self._load(slot)

    @property
    def outgrown(self) -> list[PieceRun]:
        """Return the pieces that need more positions than a slot here has."""
        if self._may_shift:
            return []
        full = self._state.position[: len(self.runs)] >= self.spec.capacity - 1
        return [self.runs[slot] for slot in np.flatnonzero(full)]

    def move(self, run: PieceRun, other: Slots) -> None:
        """Let a piece go on in a free slot of another size."""
        slot, target = self.runs.index(run), len(other.runs)
        cache, position = self._batch.cache(slot), int(self._state.position[slot])
        rows = [buffer.read(position) for buffer in cache.buffers]
        for buffer, values in zip(other._batch.cache(target).buffers, rows, strict=True):
            buffer.write(values)
        for name, array in vars(other._state).items():
            array[target] = vars(self._state)[name][slot]
        other.runs.append(run)
        other._tokens[run] = self._tokens[run]
        self._free(slot)

    def drop(self, run: PieceRun) -> None:
        """Free the slot of a piece whose tokens nobody needs."""
        if run in self.runs:
            self._free(self.runs.index(run))

    def load(self) -> None:
        """Give embeddings to the slots that wait for them, as far as there are any."""
        state, count = self._state, len(self.runs)
        for slot in np.flatnonzero(state.used[:count] == state.have[:count])[::-1]:
            self._look(int(slot))

    def step(self) -> bool:
        """Advance all slots that have an embedding by a position; return whether any had.

        Raises:
            DeviceError: the call has failed, and no slot has advanced.
        """
        # Run the call; the output of slots without an embedding is not used
        state, count = self._state, len(self.runs)
        at = slice(0, count)
        is_active = state.used[at] < state.have[at]
        if not is_active.any():
            return False
        began, size = perf_counter(), self.model.device.batch_rows(count, self.count)
        prompts = self._skip_prompts() if self._is_exact else {}
        embeds = state.embeds[np.arange(size), np.minimum(state.used[:size], BURST - 1)]
        penalties = blank_penalties(state.blanks[:size] * self._guard)
        sampled = self._sample(embeds, penalties)[at]
        position = state.position[at]

        # Run prompts, tell which tokens count, put known ones in, and make close decisions again
        is_asked = is_active & (position >= state.asked_from[at])
        for slot, rows in prompts.items():
            token = self._alone(slot, penalties, rows)
            if is_asked[slot]:
                self._replace(slot, sampled, token)
        is_free = is_asked & (position >= state.given_until[at])
        for slot in np.flatnonzero(is_asked & ~is_free):
            given = self.runs[slot].given[position[slot] - state.asked_from[slot]]
            self._replace(int(slot), sampled, SampledToken(given, 0.0, 0.0))
        close = np.flatnonzero(is_free & self._are_close(sampled))
        if self._is_exact:
            for slot in close:
                self._replace(int(slot), sampled, self._alone(int(slot), penalties))
        else:
            state.num_close[close] += 1

        # Count
        blank, ids = self._ids.streaming_pad, sampled[:, 0].astype(np.int64)
        is_blank = ids == blank
        state.next_id[at] = np.where(is_active, np.where(is_asked, ids, blank), state.next_id[at])
        state.blanks[at] = np.where(
            is_asked, np.where(is_blank, state.blanks[at] + 1, 0), state.blanks[at]
        )
        state.has_spilled[at] |= is_asked & ~is_blank & (position >= state.checked_from[at])
        active = np.flatnonzero(is_active)
        state.sampled[active, state.used[active]] = sampled[active]
        is_last = buffer_rows(self.spec, position) + 1 == self.spec.capacity
        # Those that ran alone have shifted their own
        alone = {*prompts, *close.tolist()} if self._is_exact else set()
        for slot in set(np.flatnonzero(is_last & is_active).tolist()) - alone:
            self.model.device.shift_all(self._batch.cache(slot).buffers, self.spec.keep)
        state.used[at] += is_active
        state.position[at] += is_active
        state.seconds[active] += (perf_counter() - began) / len(active)

        if self.runs[0].sampler:
            for slot in np.flatnonzero(is_asked):
                if sampler := self.runs[slot].sampler:
                    sampler.accept_token(int(ids[slot]))

        # Look at slots whose burst has ended; from the last on, as they may move
        is_eos = is_asked & (ids == self._ids.eos)
        has_ended = is_active & ((state.used[at] == state.have[at]) | is_eos)
        for slot in np.flatnonzero(has_ended)[::-1]:
            self._look(int(slot), is_eos=bool(is_eos[slot]))
        return True

    def _sample(self, embeds: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """Run a call, and return ids, logprobs and blank margins, float32 [n, 3].

        The device may run more slots than have a piece; what those compute is not used.
        """
        size, state = len(embeds), self._state
        position = state.position[:size]
        feeds = {
            "input_ids": state.next_id[:size],
            "audio_embeds": embeds,
            "num_delay_tokens": state.delay[:size],
            "blank_penalty": penalties,
        }
        step = self.model.decoder.step_batch
        if self.runs[0].sampler is None:
            return step(self._batch, position, feeds, "step").copy()
        logits = step(self._batch, position, feeds, "logits")
        sampled = np.zeros((size, 3), np.float32)
        for slot, run in enumerate(self.runs):
            if state.used[slot] == state.have[slot] or position[slot] < state.asked_from[slot]:
                continue
            assert run.sampler
            token = run.sampler.sample(logits[slot], float(penalties[slot]))
            self._tokens[run].append(token)
            sampled[slot] = token.token_id, token.logprob, token.blank_margin
        return sampled

    def _skip_prompts(self) -> dict[int, int]:
        """Let slots skip their prompt, and return how many positions of it each is to run alone.

        A call of several positions rounds otherwise than one position of several slots, and a file
        alone runs its prompt in one.
        """
        state, found = self._state, dict[int, int]()
        for slot in range(len(self.runs)):
            left = int(state.have[slot] - state.used[slot])
            prompt = int(state.asked_from[slot] - state.position[slot])
            if prompt > 0 and left > 0:
                rows = buffer_rows(self.spec, state.position[slot : slot + 1])
                found[slot] = min(left, prompt + 1, self.spec.capacity - int(rows[0]))
                state.used[slot] += found[slot] - 1
                state.position[slot] += found[slot] - 1
        return found

    def _alone(self, slot: int, penalties: np.ndarray, rows: int = 1) -> SampledToken:
        """Sample a slot's token again, in a call of its own with the positions before it.

        These are of its prompt. `rows` is the number of all of them.
        """
        state, sampler, cache = self._state, self.runs[slot].sampler, self._batch.cache(slot)
        used, blank = int(state.used[slot]), self._ids.streaming_pad
        cache.position = int(state.position[slot]) - rows + 1
        return self.model.decoder.step(
            cache,
            [int(state.next_id[slot]), *[blank] * (rows - 1)],
            state.embeds[slot, used - rows + 1 : used + 1],
            int(state.delay[slot]),
            [float(penalties[slot])] * rows,
            sampler.sample if sampler else None,
        )[-1]

    def _replace(self, slot: int, sampled: np.ndarray, token: SampledToken) -> None:
        sampled[slot] = token.token_id, token.logprob, token.blank_margin
        if self.runs[slot].sampler:
            self._tokens[self.runs[slot]][-1] = token

    def _are_close(self, sampled: np.ndarray) -> np.ndarray:
        """Return `SampledToken.is_close` of all slots, bool [n], from float32 [n, 3]."""
        if self.runs[0].sampler:
            tokens = [self._tokens[run] for run in self.runs]
            return np.array([bool(each) and each[-1].is_close() for each in tokens])
        logprobs, margins = sampled[:, 1], sampled[:, 2]
        return (np.abs(margins) < CLOSE_MARGIN) | (
            (margins < 0) & (logprobs < log(0.5 + CLOSE_MARGIN / 4))
        )

    def _look(self, slot: int, *, is_eos: bool = False) -> None:
        """Hand on what a slot has written, and load what it needs next, or free it."""
        run, state = self.runs[slot], self._state
        self._hand_on(slot)
        if run.is_dropped or run.recording.error:
            self._free(slot)
            return
        if is_eos:
            state.has_spilled[slot] = False
        elif run.stop is None or run.place < run.stop:
            self._load(slot)
            return
        self._written(End(run, run.piece.end, is_eos, bool(state.has_spilled[slot])))
        if run.is_done:
            self._free(slot)
        else:
            state.has_spilled[slot] = False
            self._load(slot)

    def _hand_on(self, slot: int) -> None:
        """Hand on the tokens of a slot's burst."""
        run, state = self.runs[slot], self._state
        used = int(state.used[slot])
        if not used:
            return
        first = int(state.position[slot]) - used  # own position of the first in the burst
        skipped = max(0, int(state.asked_from[slot]) - first)
        tokens, self._tokens[run] = self._tokens[run], []
        asked = max(0, first - int(state.asked_from[slot]))
        self._written(
            Burst(
                run,
                run.piece.end,
                run.piece.begin + asked,
                state.sampled[slot, skipped:used].copy(),
                tokens,
                int(state.num_close[slot]),
                used,
                float(state.seconds[slot]),
            )
        )
        state.num_close[slot] = state.seconds[slot] = 0
        run.place += used
        state.have[slot] = state.used[slot] = 0

    def _load(self, slot: int) -> None:
        """Copy a slot's next embeddings, as many as there are and a burst takes."""
        run, state = self.runs[slot], self._state
        end = run.piece.end
        state.checked_from[slot] = (
            np.iinfo(np.int64).max if end is None else run.piece.own(run.piece.position_of(end))
        )
        most = BURST if run.stop is None else min(BURST, run.stop - run.place)
        if not self._may_shift:
            # The last row stays unused, because writing it shifts the others
            most = min(most, self.spec.capacity - 1 - int(state.position[slot]))
        embeds = run.recording.embeds(run.place, most)
        if len(embeds):
            state.embeds[slot, : len(embeds)] = embeds
        state.have[slot], state.used[slot] = len(embeds), 0

    def _free(self, slot: int) -> None:
        """Begin another piece in a slot, or move the last one there: calls run the first slots."""
        self._tokens.pop(self.runs[slot])
        if run := self._take_next():
            self.runs[slot] = run
            self._begin(slot)
            return
        last = len(self.runs) - 1
        if slot < last:
            rows = int(buffer_rows(self.spec, self._state.position[last : last + 1])[0])
            source, target = self._batch.cache(last), self._batch.cache(slot)
            self.model.device.copy_all(source.buffers, target.buffers, rows)
            self._state.move(last, slot)
            self.runs[slot] = self.runs[last]
        self.runs.pop()
