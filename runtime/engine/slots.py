"""Decoder slots of one capacity, which advance in lockstep: by a position of each in every call."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from time import perf_counter

import numpy as np

from ...manifest import CacheSpec
from ..decision import greedy_decision
from ..device.cache import buffer_rows
from ..guard import blank_penalties
from ..model import LoadedModel
from ..stream import Sampler
from ..tokens import CLOSE_MARGIN, SampledToken
from .calls import plan_calls
from .recording import BURST, Parked, PieceRun
from .slot_state import SlotState
from .written import Burst, End

NEVER = np.iinfo(np.int64).max


class Slots:
    """Slots for pieces of up to `spec.capacity` positions, or for all if they may shift."""

    def __init__(
        self,
        model: LoadedModel,
        spec: CacheSpec,
        count: int,
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
        self._guard, self._is_exact = guard, is_exact
        self._written, self._take_next = written, take_next
        self._batch = model.decoder.new_batch(spec, count)
        self._ids = model.manifest.tokens
        self._state = SlotState(count, model.manifest.config.decoder.hidden_size, self._batch.dtype)
        self.runs: list[PieceRun] = []  # in the first slots
        self._tokens: dict[PieceRun, list[SampledToken]] = {}  # of this burst, sampled in Python

    @property
    def has_room(self) -> bool:
        """Return whether a slot is free."""
        return len(self.runs) < self.count

    @property
    def num_ready(self) -> int:
        """Return how many slots have embeddings."""
        count = len(self.runs)
        return int((self._state.used[:count] < self._state.have[:count]).sum())

    @property
    def num_live_ready(self) -> int:
        """Return how many of them are those of live recordings."""
        at, state = slice(0, len(self.runs)), self._state
        return int((state.is_live[at] & (state.used[at] < state.have[at])).sum())

    @property
    def num_starving(self) -> int:
        """Return how many slots wait for embeddings of files."""
        at, state = slice(0, len(self.runs)), self._state
        return int((~state.is_live[at] & (state.used[at] == state.have[at])).sum())

    def seconds_of_call(self, count: int) -> float:
        """Return how long a call takes that advances so many slots with full caches.

        No piece may have begun. What the call writes is overwritten before it is read.
        """
        size, began = self.model.device.batch_rows(count, self.count), perf_counter()
        feeds = {
            "input_ids": np.full(size, self._ids.streaming_pad),
            "audio_embeds": self._state.embeds[:size, 0],
            "num_delay_tokens": self._state.delay[:size],
            "blank_penalty": blank_penalties(self._state.blanks[:size]),
        }
        positions = np.full(size, self.spec.capacity - 2)
        self.model.decoder.step_batch(self._batch, positions, feeds, "step")
        return perf_counter() - began

    def start(self, run: PieceRun) -> None:
        """Begin a piece in a free slot, behind the silence before all audio."""
        self.runs.append(run)
        self._begin(len(self.runs) - 1)

    def _begin(self, slot: int) -> None:
        """Begin the piece of a slot."""
        state, run = self._state, self.runs[slot]
        if run.parked:
            self._unpark(slot, run.parked)
            return
        piece, buffers = run.piece, run.recording.prefix.buffers
        self.model.device.copy_all(buffers, self._batch.cache(slot).buffers, buffers[0].shape[2])
        state.position[slot] = run.place - piece.begin
        state.next_id[slot] = run.recording.prefix.next_id
        state.blanks[slot] = piece.blanks
        state.delay[slot] = piece.num_delay_tokens
        state.asked_from[slot] = piece.own(piece.position_of(piece.begin))
        state.given_until[slot] = state.asked_from[slot] + len(run.given)
        state.has_spilled[slot] = False
        state.is_live[slot] = run.recording.is_live
        state.stops_at_eos[slot] = run.recording.stop_at_eos
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
        for name, value in self._state.entries(slot).items():
            vars(other._state)[name][target] = value
        other.runs.append(run)
        other._tokens[run] = self._tokens[run]
        self._free(slot)

    def make_room(self, size: int) -> list[PieceRun]:
        """Free the slot of a file's piece, which is to go on later from where it is.

        Args:
            size: index of these slots' size.

        Returns:
            the piece; none if all are live.
        """
        for slot in range(len(self.runs))[::-1]:
            run = self.runs[slot]
            if run.recording.is_live:
                continue
            self._hand_on(slot)
            rows = int(buffer_rows(self.spec, self._state.position[slot : slot + 1])[0])
            buffers = [buffer.read(rows).copy() for buffer in self._batch.cache(slot).buffers]
            run.parked = Parked(buffers, self._state.entries(slot), size)
            self._free(slot, takes_next=False)
            return [run]
        return []

    def _unpark(self, slot: int, parked: Parked) -> None:
        for buffer, values in zip(self._batch.cache(slot).buffers, parked.rows, strict=True):
            buffer.write(values)
        for name, value in parked.entries.items():
            vars(self._state)[name][slot] = value
        self.runs[slot].parked = None
        self._tokens[self.runs[slot]] = []
        self._load(slot)

    def drop(self, run: PieceRun) -> None:
        """Free the slot of a piece whose tokens nobody needs."""
        if run in self.runs:
            self._free(self.runs.index(run))

    def load(self) -> None:
        """Give embeddings to the slots that wait for them, as far as there are any."""
        state, count = self._state, len(self.runs)
        for slot in np.flatnonzero(state.used[:count] == state.have[:count])[::-1]:
            run = self.runs[slot]
            if run.is_ready or run.is_dropped or run.recording.error or run.place == run.stop:
                self._look(int(slot))

    def step(self) -> bool:
        """Advance all slots that have an embedding by a position; return whether any had.

        Raises:
            DeviceError: the call has failed, and no slot has advanced.
        """
        # Run the calls; the output of slots without an embedding is not used
        state, count = self._state, len(self.runs)
        at = slice(0, count)
        is_active = state.used[at] < state.have[at]
        if not is_active.any():
            return False
        began, size = perf_counter(), self.model.device.batch_rows(count, self.count)
        prompts = self._skip_prompts() if self._is_exact else {}
        embeds = state.embeds[np.arange(size), np.minimum(state.used[:size], BURST - 1)]
        penalties = blank_penalties(state.blanks[:size] * self._guard)
        sampled = self._sample(embeds, penalties, np.flatnonzero(is_active))[at]
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

        for slot, sampler in self._samplers(0, count):
            if is_asked[slot]:
                sampler.accept_token(int(ids[slot]))

        # Look at slots whose burst has ended; from the last on, as they may move
        is_eos = is_asked & (ids == self._ids.eos) & state.stops_at_eos[at]
        has_ended = is_active & ((state.used[at] == state.have[at]) | is_eos)
        for slot in np.flatnonzero(has_ended)[::-1]:
            self._look(int(slot), is_eos=bool(is_eos[slot]))
        return True

    def _sample(self, embeds: np.ndarray, penalties: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Run the calls of a step, and return ids, logprobs and blank margins, float32 [n, 3].

        A call may run other slots than those that are active, as the device likes; what those
        compute is not used, nor does it last.
        """
        device, sampled = self.model.device, np.zeros((len(embeds), 3), np.float32)
        for first, last in plan_calls(dict.fromkeys(active.tolist(), 1), device.call_tokens):
            last = last if first else device.batch_rows(last, self.count)
            sampled[first:last] = self._call(first, embeds[first:last], penalties[first:last])
        return sampled

    def _call(self, first: int, embeds: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """Run a call for the slots from `first` on, as many as have embeddings here."""
        size, state = len(embeds), self._state
        at = slice(first, first + size)
        position = state.position[at]
        feeds = {
            "input_ids": state.next_id[at],
            "audio_embeds": embeds,
            "num_delay_tokens": state.delay[at],
            "blank_penalty": penalties,
        }
        step, samplers = self.model.decoder.step_batch, self._samplers(first, first + size)
        if not samplers:
            return step(self._batch, position, feeds, "step", first).copy()
        logits = step(self._batch, position, feeds, "logits", first)
        decisions = greedy_decision(logits, self._ids.streaming_pad, penalties)
        sampled = np.stack(decisions[:3], 1).astype(np.float32)
        for slot, sampler in samplers:
            is_active = state.used[slot] < state.have[slot]
            if is_active and state.position[slot] >= state.asked_from[slot]:
                row = slot - first
                token = sampler.sample(logits[row], float(penalties[row]))
                self._tokens[self.runs[slot]].append(token)
                sampled[row] = token.token_id, token.logprob, token.blank_margin
        return sampled

    def _samplers(self, first: int, last: int) -> list[tuple[int, Sampler]]:
        """Return the slots from `first` to before `last` that sample in Python."""
        runs = self.runs[first:last]
        return [(first + i, run.sampler) for i, run in enumerate(runs) if run.sampler]

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
        logprobs, margins = sampled[:, 1], sampled[:, 2]
        are_close = (np.abs(margins) < CLOSE_MARGIN) | (
            (margins < 0) & (logprobs < log(0.5 + CLOSE_MARGIN / 4))
        )
        for slot, _ in self._samplers(0, len(self.runs)):
            tokens = self._tokens[self.runs[slot]]
            are_close[slot] = bool(tokens) and tokens[-1].is_close()
        return are_close

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
            NEVER if end is None else run.piece.own(run.piece.position_of(end))
        )
        most = BURST if run.stop is None else min(BURST, run.stop - run.place)
        if not self._may_shift:
            # The last row stays unused, because writing it shifts the others
            most = min(most, self.spec.capacity - 1 - int(state.position[slot]))
        embeds = run.recording.embeds(run.place, most)
        if len(embeds):
            state.embeds[slot, : len(embeds)] = embeds
        state.have[slot], state.used[slot] = len(embeds), 0

    def _free(self, slot: int, *, takes_next: bool = True) -> None:
        """Begin another piece in a slot, or move the last one there: calls run the first slots."""
        self._tokens.pop(self.runs[slot])
        if takes_next and (run := self._take_next()):
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
