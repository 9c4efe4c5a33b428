"""Slots of several sizes: the smallest that holds a recording, and what outgrows it moves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.devices import Imitation
from support.recordings import alone, babble, by_length, cut_shorter, transcriber_on, with_silences

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime import recordings
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.engine import sizes
from voxtral_onnx.runtime.engine.sizes import size_for, slot_sizes
from voxtral_onnx.runtime.engine.slots import Slots
from voxtral_onnx.runtime.recordings import MOST_EXACT

SMALL = (75, 79)  # positions; *tiny* has 159 before it shifts


@pytest.fixture(scope="module")
def expected(tiny_artifact):
    """The tokens that sounds have alone, by their samples, sorted."""
    with Transcriber(tiny_artifact, "cpu", precision="fp32") as transcriber:
        yield lambda sounds: sorted((len(each), alone(transcriber, each)) for each in sounds)


@pytest.fixture
def tiny(tiny_artifact, monkeypatch):
    """A transcriber with slots of three sizes, three of each."""
    monkeypatch.setattr(sizes, "SMALL_CAPACITIES", SMALL)
    with transcriber_on(
        Imitation(), monkeypatch, tiny_artifact, precision="fp32", batch_size=3
    ) as found:
        yield found


@pytest.fixture
def started(monkeypatch):
    """The capacity of the slot in which each recording has begun, by its samples."""
    found, begin = dict[int, int](), Slots._begin

    def begin_noted(slots, slot):
        source = slots.runs[slot].recording.sound.source
        found[round(16000 * source.duration)] = slots.spec.capacity
        begin(slots, slot)

    monkeypatch.setattr(Slots, "_begin", begin_noted)
    return found


def test_a_recording_enters_the_smallest_size_that_holds_it(tiny, started, expected):
    """And has the tokens that it has alone, up to the last position of a size, and after shifts."""
    pads = 32 + 6 + 11  # tokens; all but the last take a position
    counts = [1, *(size - pads + more for size in SMALL for more in (-2, 0, 1)), 130]
    lengths = [1280 * count for count in counts]
    found = by_length(tiny.transcribe_many(map(babble, lengths)))
    assert found == expected(map(babble, lengths))
    for count, length in zip(counts, lengths, strict=True):
        positions = count + pads - 1
        assert started[length] > positions or started[length] == 159
        smaller = [size for size in SMALL if size < started[length]]
        assert all(size < positions + 4 for size in smaller)  # the length is rounded up


def test_a_joined_piece_that_outgrows_its_slot_moves(tiny, monkeypatch, expected):
    """To the next size, and from there on, until one shifts."""
    cut_shorter(monkeypatch, aim=0.8, beyond=1.0, least=0.3)
    monkeypatch.setattr(Slots, "_hand_on", spilled(Slots._hand_on))
    moves, move = list[tuple[int, int]](), Slots.move

    def move_noted(slots, run, other):
        moves.append((slots.spec.capacity, other.spec.capacity))
        move(slots, run, other)

    monkeypatch.setattr(Slots, "move", move_noted)
    sounds = [*map(sentences, (1, 2)), babble(9_000)]
    found = by_length(tiny.transcribe_many(sounds))
    assert found == expected(sounds)
    assert set(moves) == set(pairwise((*SMALL, 159)))


def sentences(seed: int) -> np.ndarray:
    """Return 6 s with silences, of which the first piece is two seconds long."""
    return with_silences([babble(6_000 + seed + n) for n in range(6)], 0.7)[8_000:]


def spilled(hand_on):
    """Say of every piece that it has written text after its end."""

    def changed(slots, slot):
        hand_on(slots, slot)
        slots._state.has_spilled[slot] = True

    return changed


def test_pieces_wait_for_room_in_the_next_size(tiny, monkeypatch, expected):
    cut_shorter(monkeypatch, aim=0.8, beyond=1.0, least=0.3)
    monkeypatch.setattr(Slots, "_hand_on", spilled(Slots._hand_on))
    made = sizes.slot_sizes

    def one_large(*arguments):
        *small, last = made(*arguments)
        return [*small, replace(last, count=1)]

    monkeypatch.setattr(recordings, "slot_sizes", one_large)
    sounds = [sentences(seed) for seed in range(4)]
    found = by_length(tiny.transcribe_many(sounds))
    assert found == expected(sounds)


@pytest.mark.parametrize("delay_ms", [80, 480, 2400])
@pytest.mark.parametrize("batch_size", [3, 9])
def test_prompts_are_run_in_the_calls_of_a_file_alone(
    batch_size, delay_ms, tiny_artifact, monkeypatch
):
    """Calls of other sizes round the keys and values before all text in another way.

    In batches in which close decisions stay as they are, prompts are run in lockstep.
    """
    calls, step = list[tuple[int, int, bytes]](), Decoder.step

    def step_noted(decoder, cache, token_ids, audio_embeds, delay, *rest):
        if 31 <= cache.position < 1 + 32 + delay and len(token_ids) > 1:
            calls.append((cache.position, len(token_ids), audio_embeds.tobytes()))
        return step(decoder, cache, token_ids, audio_embeds, delay, *rest)

    monkeypatch.setattr(Decoder, "step", step_noted)
    sounds = [babble(length) for length in (3_000, 20_000, 40_000, 4_000)]
    found = []
    for size in (1, batch_size):
        with Transcriber(tiny_artifact, "cpu", delay_ms=delay_ms, batch_size=size) as tiny:
            found.append((by_length(tiny.transcribe_many(sounds)), sorted(calls)))
        calls.clear()
    (tokens, expected), (tokens_together, calls_together) = found
    assert len(expected) == len(sounds) * (1 + (delay_ms > 1280))
    assert calls_together == ([] if batch_size > MOST_EXACT else expected)
    assert batch_size > MOST_EXACT or tokens_together == tokens


def test_a_smaller_context_shifts_in_the_last_size_only(tiny_artifact, monkeypatch, started):
    monkeypatch.setattr(sizes, "SMALL_CAPACITIES", (60,))
    with transcriber_on(
        Imitation(), monkeypatch, tiny_artifact, precision="fp32", context=100, batch_size=2
    ) as tiny:
        lengths = [1280 * 8, 1280 * 40, 1280 * 200]
        found = by_length(tiny.transcribe_many(map(babble, lengths)))
        expected = sorted((length, alone(tiny, babble(length))) for length in lengths)
        assert found == expected
        assert [size.may_shift for size in slot_sizes(tiny.model, 2, [])] == [False, True]
    assert [started[length] for length in lengths] == [60, 124, 124]


def test_sizes_are_said_when_memory_holds_fewer(tiny, monkeypatch):
    notes = list[str]()
    per_slot = 4 * 2 * 2 * 64 * 4  # bytes a position: layers, keys and values, heads, size
    free = sizes.MOST_CACHES * sizes.buffer_bytes(tiny.model.grid.spec, 4) + 1000 * per_slot
    monkeypatch.setattr(sizes, "free_memory", lambda model: free)
    found = slot_sizes(tiny.model, 6, notes)
    assert [(each.spec.capacity, each.count) for each in found] == [(75, 5), (79, 2), (159, 1)]
    assert notes == [
        "batch size: 5 of up to 6 s, 2 of up to 6 s, 1 of any length together (as many as fit into "
        "memory, not 6)"
    ]
    assert [size_for(found, positions) for positions in (74, 75, 78, 79, 10_000)] == [0, 1, 1, 2, 2]
