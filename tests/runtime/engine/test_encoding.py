"""Whose turn it is to be encoded: nobody waits for ever, and what waits stays within bounds."""

from __future__ import annotations

import threading
from time import sleep

import pytest
from support.devices import Imitation
from support.recordings import (
    alone,
    babble,
    by_length,
    cut_shorter,
    transcriber_on,
    with_silences,
    within_time,
)

from voxtral_onnx.errors import DeviceError
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.device.cache import KVCache
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.encoder import Encoder
from voxtral_onnx.runtime.engine import encoding, sound
from voxtral_onnx.runtime.engine.encoding import Encoding
from voxtral_onnx.runtime.engine.recording import STRETCH, FileRecording
from voxtral_onnx.runtime.pieces import cutter

LONG, SHORT = (160_000, 161_280, 150_001, 170_007), (1280, 16_000, 12_800, 1)


@pytest.fixture(scope="module", params=[Cpu, Imitation])
def toy(request, toy_artifact):
    device = request.param()
    if isinstance(device, Imitation):
        device.encoder_calls = 4, 8, 12, 16  # so that there are many
    with (
        pytest.MonkeyPatch.context() as patch,
        transcriber_on(device, patch, toy_artifact, precision="fp32", batch_size=2) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def expected(toy):
    lengths = (*LONG, *SHORT)
    return {length: alone(toy, babble(length)) for length in lengths}


@pytest.fixture
def calls(monkeypatch):
    """The samples of the recording that each call of the encoder was for."""
    found, encode = list[int](), Encoding.encode

    def encode_noted(self, recording):
        found.append(round(16000 * recording.sound.source.duration))
        return encode(self, recording)

    monkeypatch.setattr(Encoding, "encode", encode_noted)
    return found


def test_short_recordings_pass_long_ones(toy, expected, monkeypatch, calls):
    """With as many long ones as caches, which came first."""
    monkeypatch.setattr(encoding, "SHORT_SECONDS", 2.0)
    monkeypatch.setattr(toy, "batch_size", 10)
    lengths = [*LONG, *SHORT * 3]
    found, calls_then = [], calls
    for transcript in toy.transcribe_many(map(babble, lengths), split=False):
        found.append(round(16000 * transcript.duration))
        if len(found) == 3 * len(SHORT):
            calls_then = list(calls)
    assert set(found[: 3 * len(SHORT)]) == set(SHORT), "a long one ended before a short one"
    if not toy.device.overlaps:  # otherwise all may be encoded while the first are decoded
        longs = [sum(each in LONG for each in some) for some in (calls_then, calls)]
        assert longs[0] < longs[1], "all was encoded before the last short one ended"


def test_more_long_recordings_than_are_read_ahead(toy, expected, monkeypatch):
    """Those of which enough is encoded do not keep others from being read."""
    monkeypatch.setattr(encoding, "SHORT_SECONDS", 2.0)
    monkeypatch.setattr(encoding, "MOST_CACHES", 1)
    monkeypatch.setattr(encoding, "QUEUE_BYTES", 100_000)
    monkeypatch.setattr(toy, "batch_size", 6)
    lengths = [*LONG, *SHORT]
    found = within_time(lambda: list(toy.transcribe_many(map(babble, lengths), split=False)))
    order = [round(16000 * each.duration) for each in found]
    assert set(order[: len(SHORT)]) == set(SHORT)
    assert by_length(found) == sorted((length, expected[length]) for length in lengths)


@pytest.mark.parametrize("short_seconds", [0.0, 2.0])
def test_a_full_queue_and_a_single_cache(toy, expected, monkeypatch, short_seconds):
    """What waits stays within bounds, and states that make room for others come back exactly."""
    restored, restore = [], KVCache.restore

    def restore_noted(cache, position, arrays):
        restored.append(position)
        restore(cache, position, arrays)

    monkeypatch.setattr(KVCache, "restore", restore_noted)
    monkeypatch.setattr(encoding, "SHORT_SECONDS", short_seconds)
    monkeypatch.setattr(encoding, "MOST_CACHES", 1)
    monkeypatch.setattr(encoding, "QUEUE_BYTES", 10_000)
    most, choose = [0], Encoding.choose

    def choose_noted(self, **options):
        most.append(sum(each.num_bytes for each in self.held))
        return choose(self, **options)

    monkeypatch.setattr(Encoding, "choose", choose_noted)
    lengths = [*LONG, *SHORT, *LONG[:2]]
    found = within_time(lambda: by_length(toy.transcribe_many(map(babble, lengths), split=False)))
    assert found == sorted((length, expected[length]) for length in lengths)
    assert len(restored) > 4
    per_token = 96 * 4
    chunk, num_open = toy.model.grid.chunk, 8
    assert max(most) <= 10_000 + num_open * per_token * (2 * chunk + STRETCH)
    assert max(most) < per_token * sum(length / 1280 for length in lengths) / 2


def test_what_waits_for_a_cut_is_encoded_on(toy, expected, monkeypatch):
    """Nothing of them can be decoded before they have ended, as they have no silence."""
    cut_shorter(monkeypatch)
    monkeypatch.setattr(encoding, "SHORT_SECONDS", 2.0)
    monkeypatch.setattr(encoding, "MOST_CACHES", 2)
    monkeypatch.setattr(encoding, "QUEUE_BYTES", 10_000)
    lengths = [*LONG, *SHORT]
    found = within_time(lambda: by_length(toy.transcribe_many(map(babble, lengths))))
    assert found == sorted((length, expected[length]) for length in lengths)


def test_pieces_that_wait_for_a_slot_stay_within_bounds(toy, monkeypatch):
    """A long recording has many, and decoding is the slower part."""
    cut_shorter(monkeypatch)
    monkeypatch.setattr(cutter, "LONGEST_AIM_SECONDS", 3.0)
    monkeypatch.setattr(sound, "CHUNKS_AHEAD", 30)  # so that cuts are known before they are reached
    monkeypatch.setattr(encoding, "SHORT_SECONDS", 2.0)
    monkeypatch.setattr(encoding, "QUEUE_BYTES", 30_000)
    most, append, step = [0], FileRecording.append, Decoder.step_batch

    def append_noted(self, audio_embeds):
        begun = append(self, audio_embeds)
        most.append(self.num_bytes)
        return begun

    def step_slowly(*arguments):
        sleep(0.002)
        return step(*arguments)

    monkeypatch.setattr(FileRecording, "append", append_noted)
    monkeypatch.setattr(FileRecording, "join", lambda self, run: None)  # toy writes text in silence
    monkeypatch.setattr(Decoder, "step_batch", step_slowly)
    samples = with_silences([babble(32_000 + n) for n in range(12)])
    (found,) = within_time(lambda: list(toy.transcribe_many([samples])))
    assert len(found.token_ids) == len(alone(toy, samples))
    whole = 96 * 4 * len(found.token_ids)
    assert 30_000 < max(most) < whole / 2


def test_short_recordings_take_turns_where_memory_holds_one_cache(toy, expected, monkeypatch):
    made, new_cache = [], Encoder.new_cache

    def new_cache_once(encoder, spec=None):
        made.append(spec)
        if len(made) > 1:
            raise DeviceError("out of memory")
        return new_cache(encoder, spec)

    monkeypatch.setattr(Encoder, "new_cache", new_cache_once)
    found = within_time(lambda: by_length(toy.transcribe_many(map(babble, expected))))
    assert found == sorted(expected.items())
    assert toy.notes[-1] == "encoder: 1 caches instead of more (out of memory)"


def test_without_memory_for_a_cache_each_recording_says_so(toy, monkeypatch):
    def none(encoder, spec=None):
        raise DeviceError("out of memory")

    monkeypatch.setattr(Encoder, "new_cache", none)
    found = within_time(lambda: list(toy.transcribe_many(map(babble, SHORT))))
    assert len(found) == len(SHORT)
    for each in found:
        with pytest.raises(DeviceError, match="out of memory"):
            _ = each.text


def test_a_recording_that_fails_while_it_is_encoded_leaves_its_cache(toy, expected, monkeypatch):
    """Its last call ends after another thread has dropped it."""
    encode, dropped = Encoding.encode, threading.Event()

    def encode_late(self, recording):
        found = encode(self, recording)
        if recording.sound.source.duration == 1 / 16000:
            self.drop(recording)  # as the thread that decodes does
            self._caches.setdefault(recording, self._cache_of(recording))
            dropped.set()
            raise DeviceError("lost")
        return found

    monkeypatch.setattr(Encoding, "encode", encode_late)
    monkeypatch.setattr(encoding, "MOST_CACHES", 1)
    lengths = [1, *SHORT[:3], 1, *SHORT[:3]]
    found = within_time(lambda: list(toy.transcribe_many(map(babble, lengths))))
    whole = [each for each in found if each.duration > 1 / 16000]
    assert by_length(whole) == sorted((n, expected[n]) for n in lengths if n > 1)
    assert dropped.is_set() and len(found) == len(lengths)
