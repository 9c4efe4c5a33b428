"""A flush brings all words that were spoken, and leaves times and other streams as they are."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.commands import SAMPLES
from support.recordings import alone, babble, within_time

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.errors import AudioError, UsageError
from voxtral_onnx.runtime.live.session import LiveSession
from voxtral_onnx.runtime.text.segments import Segment
from voxtral_onnx.runtime.writer import StreamOptions, TokenWriter

SLOTS = 4
LENGTHS = (0, 1, 1279, 1280, 16_000, 50_000, 144_000)  # in the longest the caches shift many times
CLIPS = ("command-hibari", "date-hibari", "time-flite")


@pytest.fixture(scope="module")
def engine(toy):
    with Engine(toy, slots=SLOTS, context=8192, most_streams=SLOTS) as found:
        yield found


@pytest.fixture(scope="module")
def tiny(tiny_artifact):
    with Transcriber(tiny_artifact, precision="fp32") as found:
        yield found


@pytest.fixture(scope="module")
def tiny_engine(tiny):
    with Engine(tiny, slots=2, most_streams=2) as found:
        yield found


def clip(name):
    return soundfile.read(SAMPLES / f"{name}.wav", dtype="float32")[0]


def silence(transcriber, before: int, delay_ms: int | None = None) -> int:
    """How many samples of silence a flush puts in behind others."""
    delay = transcriber.num_delay_tokens if delay_ms is None else delay_ms // 80
    return -before % 1280 + 1280 * (delay + transcriber.manifest.streaming.right_pad_tokens)


def take(stream, count):
    return within_time(lambda: list(islice(stream.events, count)))


@pytest.mark.parametrize("delay_ms", [80, 480, 2400])
@pytest.mark.parametrize("name", CLIPS)
def test_all_words_come_without_more_sound(tiny, tiny_engine, name, delay_ms):
    stream = tiny.stream(delay_ms)
    expected = stream.feed(clip(name)) + stream.finish()
    with tiny_engine.open(delay_ms) as stream:
        stream.feed(clip(name))
        assert stream.flush() == len(expected)
        found = take(stream, len(expected))
        assert [each.token_id for each in found] == [each.token_id for each in expected]
        assert "".join(each.text for each in found) == "".join(each.text for each in expected)
        assert not len(stream.events), "nothing more came"
        stream.finish()
        assert not "".join(each.text for each in take(stream, 100)), "each word once"


def test_times_do_not_count_the_silence(tiny, tiny_engine):
    """Nor do segments and latencies; and the stream says how much it was fed."""
    sounds, events = [clip(name) for name in CLIPS], []
    with tiny_engine.open() as stream:
        session, fed, heard, silences = LiveSession(stream, events.append), 0, 0, []
        number = 0
        for sound in sounds:
            stream.feed(session.take(sound))
            fed, heard = fed + len(sound), heard + len(sound)
            number = stream.flush()
            silences.append((heard, silence(tiny, heard)))
            heard += silences[-1][1]
            assert number == heard // 1280 - tiny.num_delay_tokens - 1
            assert stream.num_samples == fed
            while stream.writer.num_generated < number or len(stream.events):
                session.accept_token(next(stream.events))
            assert stream.num_encoded_samples == fed
        assert session.metrics.transcribed == session.metrics.captured == fed / 16_000
        ends = [stream.writer.seconds_of(index) for index in range(number)]
        stream.finish()
        for token in stream.events:
            session.accept_token(token)
        session.end()

    # Each token ends where its sound does, and those of silence where that was put in
    assert all(one <= other for one, other in pairwise(ends)) and ends[-1] == fed / 16_000
    naive = [
        (end - sum(min(size, max(0, end - first)) for first, size in silences)) / 16_000
        for end in range(1280, 1280 * number + 1, 1280)
    ]
    assert ends == pytest.approx(naive)

    # Each segment is where it is in its clip
    segments, begin = [each for each in events if isinstance(each, Segment)], 0.0
    previous = 0.0
    for sound in sounds:
        duration = len(sound) / 16_000
        for expected in tiny.transcribe(sound):
            segment = segments.pop(0)
            assert segment.text == expected.text
            assert segment.end - begin == pytest.approx(min(expected.end, duration), abs=0.25)
            assert previous <= segment.start < segment.end <= begin + duration
            previous = segment.end
        begin += duration
    assert not segments


# Feeds of so many samples of babble, and flushes between
PLANS = st.lists(st.sampled_from(LENGTHS) | st.just("flush"), max_size=8)


@settings(max_examples=12, deadline=None, derandomize=True)
@example(["flush"], [16_000])
@example(["flush", "flush", 1, "flush", 16_000, "flush"], [])
@example([144_000, "flush", 144_000, "flush", "flush"], [144_000])
@given(PLANS, st.lists(st.sampled_from(LENGTHS), max_size=3))
def test_flushed_at_any_time_beside_others(toy, engine, plan, others):
    """The tokens are those of the same sound with silence in it, and others' are as ever."""
    beside = [(engine.open(), babble(length)) for length in others]
    with engine.open() as stream:
        heard = np.zeros(0, np.float32)
        for turn, length in enumerate(plan):
            if length == "flush":
                size = silence(toy, len(heard))
                heard = np.append(heard, np.zeros(size, np.float32))
                stream.flush()
            else:
                stream.feed(babble(length))
                heard = np.append(heard, babble(length))
            for other, sound in beside:
                other.feed(sound[3000 * turn : 3000 * (turn + 1)])
        stream.finish()
        for other, sound in beside:
            other.feed(sound[3000 * len(plan) :])
            other.finish()
        found = within_time(lambda: list(stream.events))
        assert tuple(token.token_id for token in found) == alone(toy, heard)
        assert all(one.end <= other.end for one, other in pairwise(found))
    for other, sound in beside:
        tokens = within_time(lambda other=other: tuple(each.token_id for each in other.events))
        assert tokens == alone(toy, sound)


def test_a_stream_that_has_ended_is_not_flushed(engine):
    finished, closed = engine.open(), engine.open()
    finished.finish()
    with pytest.raises(AudioError, match="finished"):
        finished.flush()
    closed.close()
    with pytest.raises(UsageError, match="closed"):
        within_time(lambda: next(closed.events))
    with pytest.raises(UsageError, match="closed"):
        closed.flush()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9))), st.integers(0, 300))
def test_where_samples_are_of_the_audio(toy, plan, heard):
    writer, is_silent, first = TokenWriter(toy.model.facts, StreamOptions(6)), list[bool](), 0
    for gap, size in plan:
        first += gap
        writer.put_silence_in(first, size)
        is_silent += [False] * gap + [True] * size
        first += size
    assert writer.num_fed(heard) == heard - sum(is_silent[:heard])
