"""Streams that are behind catch up in the time that ticks leave."""

from __future__ import annotations

from queue import SimpleQueue

import numpy as np
import pytest

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.engine import live
from voxtral_onnx.runtime.engine.encoders.per_slot import EncoderPerSlot
from voxtral_onnx.runtime.engine.encoders.samples import MOST_TOKENS
from voxtral_onnx.runtime.engine.live import CATCH_UP, LiveRecording, Ticker
from voxtral_onnx.runtime.engine.recording import Prefix
from voxtral_onnx.runtime.stream import silent_start


@pytest.fixture(scope="module")
def model(tiny_artifact):
    with Transcriber(tiny_artifact, precision="fp32") as transcriber:
        yield transcriber.model


class Clocked:
    """A ticker whose clock stands still until it is moved."""

    def __init__(self, model, monkeypatch, count, seconds_to_start=0.0):
        self.model, self.now = model, 100.0
        monkeypatch.setattr(live, "perf_counter", lambda: self.now)
        start = silent_start(model, 6, None)
        begin = EncoderPerSlot.start

        def begin_slowly(encoder, slot):
            self.now += seconds_to_start
            begin(encoder, slot)

        monkeypatch.setattr(EncoderPerSlot, "start", begin_slowly)
        self.ticker = Ticker(model, count, 1, lambda slots: EncoderPerSlot(model, slots, start))
        self.recordings = []
        for _ in range(count):
            recording = LiveRecording(
                Prefix(0, []),
                6,
                start.position.decoder,
                SimpleQueue(),
                stop_at_eos=False,
                num_encoded=start.position.decoder,
                samples=start.arrays["samples"],
            )
            self.recordings.append(recording)
            self.ticker.add(recording)

    def feed(self, recording, tokens):
        recording.feed(np.zeros(1280 * tokens, np.float32))

    def call(self, seconds=0.0):
        """Let a call happen that takes so long; returns how many tokens of each it encodes."""
        chosen = self.ticker.choose()
        for recording, embeds in self.ticker.encode(chosen) if chosen else ():
            recording.append(embeds)
        if chosen:
            self.ticker.note_encoded()
        self.now += seconds
        self.ticker.note_step(self.ticker.num_encoded, is_idle=True)
        return [
            (len(chosen[each]) - len(self._around)) // 1280 if each in chosen else 0
            for each in self.recordings
        ]

    @property
    def _around(self):
        rules = self.model.manifest.streaming
        return range(rules.look_back_samples + rules.look_ahead_samples)

    def next_tick(self):
        """Move the clock to the next tick."""
        self.now += self.ticker.seconds_left() or 0.0


def test_who_is_behind_catches_up_between_ticks(model, monkeypatch):
    clocked = Clocked(model, monkeypatch, 16)
    clocked.feed(clocked.recordings[3], 18)
    clocked.next_tick()
    assert clocked.call() == [0] * 3 + [MOST_TOKENS] + [0] * 12, "others have nothing"
    for each in clocked.recordings:
        clocked.feed(each, 1)
    clocked.next_tick()
    assert clocked.call() == [1] * 16, "no more than others"
    found = []
    while clocked.ticker.may_catch_up:
        found.append(clocked.call(0.001))
    assert sum(each[3] for each in found) == 14 and len(found) < 14
    assert all(sum(each) == each[3] for each in found)


def test_catching_up_does_not_delay_the_next_tick(model, monkeypatch):
    clocked = Clocked(model, monkeypatch, 3)
    first, second, _ = clocked.recordings
    clocked.feed(first, 40)
    clocked.ticker._pause = clocked.ticker.seconds  # as long as a tick may last
    left = 40
    for _ in range(40):
        clocked.feed(second, 1)
        clocked.next_tick()
        tokens = clocked.call(0.03)
        assert tokens == [min(1, left), 1, 0], "who is not behind waits for nobody"
        left, calls = left - tokens[0], 0
        while clocked.ticker.may_catch_up:
            tokens = clocked.call(0.03)[0]
            left, calls = left - tokens, calls + 1
            assert tokens, "it is not asked in vain"
        late = clocked.now - clocked.ticker._due
        assert late <= 1e-9 or calls == 1, "but a token a tick is caught up with"
        if not left:
            return
    pytest.fail("it has not caught up")


def test_many_that_are_behind_share_a_call(model, monkeypatch):
    clocked = Clocked(model, monkeypatch, 8)
    for each in clocked.recordings:
        clocked.feed(each, 10)
    clocked.next_tick()
    assert clocked.call(0.001) == [CATCH_UP // 8] * 8


def test_many_that_begin_at_once_do_so_over_several_ticks(model, monkeypatch):
    """Each start takes a sixteenth of a tick, of which all of them may take a tenth."""
    clocked = Clocked(model, monkeypatch, 7, seconds_to_start=0.005)
    begun = []
    for _ in range(5):
        for each in clocked.recordings:
            clocked.feed(each, 1)
        clocked.next_tick()
        begun.append(sum(map(bool, clocked.call(0.001))))
    assert begun == [2, 4, 6, 7, 7]
    assert sorted(each.slot for each in clocked.recordings) == list(range(7))


def test_one_that_ends_before_its_turn_takes_no_slot(model, monkeypatch):
    clocked = Clocked(model, monkeypatch, 3, seconds_to_start=0.1)
    first, second, third = clocked.recordings
    for each in clocked.recordings:
        clocked.feed(each, 1)
    clocked.next_tick()
    assert clocked.call() == [1, 0, 0]
    clocked.ticker.drop(second)
    clocked.next_tick()
    assert clocked.call()[2] and second.slot == -1 and {first.slot, third.slot} == {0, 1}


def test_a_tick_does_not_last_for_what_others_catch_up_with(model, monkeypatch):
    clocked = Clocked(model, monkeypatch, 2)
    ticker, (first, second) = clocked.ticker, clocked.recordings
    clocked.feed(first, 20)
    clocked.feed(second, 1)
    clocked.next_tick()
    clocked.call()
    before = ticker.metrics.num_ticks

    # A call that catches up is no tick
    ticker.encode(ticker.choose())
    ticker.note_encoded()
    ticker.note_step(ticker.num_encoded, is_idle=False)
    assert ticker.metrics.num_ticks == before

    # Nor does one end in a step that began before it was encoded, or last until all have caught up
    clocked.feed(second, 1)
    clocked.next_tick()
    earlier = ticker.num_encoded
    ticker.encode(ticker.choose())
    ticker.note_encoded()
    clocked.now += 0.02
    ticker.note_step(earlier, is_idle=False)
    assert ticker.metrics.num_ticks == before
    ticker.note_step(ticker.num_encoded, is_idle=False)
    assert ticker.metrics.num_ticks == before + 1
    assert ticker.metrics.seconds[-1] == pytest.approx(0.02)
