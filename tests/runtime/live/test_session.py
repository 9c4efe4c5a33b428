"""Sound as it is spoken loses nothing, and gives the text of a file, whoever carries it."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import cycle
from math import ceil
from queue import SimpleQueue
from time import perf_counter

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.commands import CLIP, TEXT

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import AudioError, DeviceError
from voxtral_onnx.runtime import guard
from voxtral_onnx.runtime.live.capture import Capture
from voxtral_onnx.runtime.live.events import Silence, StreamWarning
from voxtral_onnx.runtime.live.session import LiveSession, StreamSession
from voxtral_onnx.runtime.live.watch import BEHIND_SECONDS
from voxtral_onnx.runtime.text.segments import Segment
from voxtral_onnx.runtime.tokens import Token

SAMPLES = soundfile.read(CLIP, dtype="float32")[0]


@pytest.fixture(scope="module")
def transcriber(tiny_artifact):
    with Transcriber(tiny_artifact, precision="q4") as transcriber:
        yield transcriber


def listen_to(transcriber, blocks):
    """Events and metrics of a live stream."""
    events = []
    session = StreamSession(transcriber.stream(), events.append)
    session.run(Capture(iter(blocks)))
    return events, session.metrics


def text_of(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Token)).strip()


def text_of_segments(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Segment)).strip()


def warnings_of(events) -> list[str]:
    return [event.text for event in events if isinstance(event, StreamWarning)]


def without_warnings(events) -> list:
    """What the events say; probabilities depend on how much is encoded at once."""
    found = []
    for event in events:
        match event:
            case Token():
                found.append((event.index, event.token_id, event.text, event.end))
            case Segment():
                found.append((event.id, event.start, event.end, event.text, event.token_ids))
            case Silence():
                found.append(event.start)
    return found


def test_live_is_the_same_text_and_groups_as_a_file(transcriber):
    events, metrics = listen_to(transcriber, np.split(SAMPLES, range(1280, len(SAMPLES), 1280)))
    assert text_of(events) == TEXT
    groups = [(event.text, event.end) for event in events if isinstance(event, Segment)]
    assert groups == [(segment.text, segment.end) for segment in transcriber.transcribe(SAMPLES)]
    assert metrics.captured == pytest.approx(len(SAMPLES) / 16000)
    assert metrics.backlog < 0.2, "the last token's look-ahead is still to come"
    assert len(metrics.latencies) == (len(SAMPLES) - 40) // 1280 - 6 and min(metrics.latencies) > 0
    assert metrics.summary()["latency_p50_ms"] <= metrics.summary()["latency_p99_ms"]


def test_groups_come_after_their_tokens_and_before_the_next_group(transcriber):
    events, _ = listen_to(transcriber, [SAMPLES])
    spoken = ""
    for event in events:
        if isinstance(event, Token):
            spoken += event.text
        elif isinstance(event, Segment):
            assert spoken.startswith(event.text)
            spoken = spoken[len(event.text) :]
    assert spoken == ""


def test_a_broken_source_loses_nothing_that_came_before(transcriber):
    def blocks():
        yield SAMPLES
        raise AudioError("unplugged")

    events = []
    with pytest.raises(AudioError, match="unplugged"):
        StreamSession(transcriber.stream(), events.append).run(Capture(blocks()))
    assert text_of(events) == TEXT == text_of_segments(events)


def test_stopping_the_capture_drains_what_was_captured(transcriber):
    released = threading.Event()

    def blocks():
        yield SAMPLES
        released.wait(60)
        yield SAMPLES

    capture, events = Capture(blocks()), []

    def on_event(event):
        events.append(event)
        capture.stop()

    StreamSession(transcriber.stream(), on_event).run(capture)
    released.set()
    assert text_of(events) == TEXT


def test_silence_is_reported_once_until_the_next_word(transcriber):
    silence = np.zeros(5 * 16000, np.float32)
    events, _ = listen_to(transcriber, [silence, SAMPLES, silence])
    silences = [event for event in events if isinstance(event, Silence)]
    assert len(silences) == 2 and silences[0].start == 0 and silences[1].start > 5


def test_warnings(transcriber):
    zeros, loud = np.zeros(16000, np.float32), np.sign(np.sin(np.arange(16000, dtype=np.float32)))
    events, _ = listen_to(transcriber, [*[zeros] * 11, loud, loud])
    texts = [event.text for event in events if isinstance(event, StreamWarning)]
    assert [text.split(":")[0] for text in texts] == [
        "the input has been digital silence for 5 s",
        "the input exceeds full scale",
    ]


@pytest.mark.parametrize("offset", [0.0, 0.05, -0.4])
def test_an_offset_costs_no_words_and_is_told_once(offset, transcriber):
    blocks = np.split(
        np.tile(SAMPLES / 2 + np.float32(offset), 2), range(999, 2 * len(SAMPLES), 999)
    )
    events, _ = listen_to(transcriber, blocks)
    assert text_of(events) == f"{TEXT} {TEXT}"
    texts = [event.text for event in events if isinstance(event, StreamWarning)]
    expected = [f"constant offset of {offset:.2g} removed from 0.0 s on"] if offset else []
    assert [text for text in texts if "offset" in text] == expected


def test_what_a_source_says_is_told(transcriber):
    notes = SimpleQueue()

    def blocks():
        notes.put("it begins")
        yield SAMPLES
        notes.put("it ends")

    events = []
    capture = Capture(blocks(), notes)
    StreamSession(transcriber.stream(), events.append).run(capture)
    texts = [event.text for event in events if isinstance(event, StreamWarning)]
    assert texts == ["it begins", "it ends"] and text_of(events) == TEXT


def test_guards_that_fire_are_reported(transcriber, monkeypatch):
    """A rut of blanks that ends by force, and an end of text that ends nothing."""
    monkeypatch.setattr(guard, "BLANKS_UNPENALISED", 20)
    monkeypatch.setattr(guard, "BLANK_PENALTY_STEP", 1e4)
    monkeypatch.setattr(guard, "MAX_BLANK_PENALTY", 1e4)
    stream, events = transcriber.stream(), []
    StreamSession(stream, events.append).run(Capture(iter([np.zeros(5 * 16000, np.float32)])))
    fired = [
        f"the blank guard chose a word at {stream.writer.seconds_of(o.index):.1f} s"
        for o in stream.overrides
    ]
    reported = [
        event.text.partition(" (")[0] for event in events if isinstance(event, StreamWarning)
    ]
    assert fired and [text for text in reported if "blank guard" in text] == fired
    monkeypatch.undo()

    stream, events = transcriber.stream(), []
    tokens = transcriber.transcribe(SAMPLES).token_ids
    first = next(i for i, token_id in enumerate(tokens) if token_id >= 1000)
    stream.writer.ids = replace(stream.ids, eos=tokens[first])
    StreamSession(stream, events.append).run(Capture(iter([SAMPLES])))
    ends = [
        event.text
        for event in events
        if isinstance(event, StreamWarning) and "end-of-text" in event.text
    ]
    assert (
        len(ends) == tokens.count(tokens[first])
        and f"at {stream.writer.seconds_of(first):.1f} s" in ends[0]
    )
    assert text_of(events) == TEXT


def test_a_backlog_costs_no_audio(transcriber):
    """A minute at once is one, and no fault of the machine."""
    taken = []
    stream = transcriber.stream()
    capture = Capture(iter([np.tile(SAMPLES, ceil(60 * 16000 / len(SAMPLES)))]))
    events = []

    def on_event(event):
        events.append(event)
        taken.append(session.metrics.backlog)

    session = StreamSession(stream, on_event)
    session.run(capture)
    assert max(taken) > BEHIND_SECONDS
    assert not any(isinstance(event, StreamWarning) for event in events)
    assert stream.num_samples >= 60 * 16000
    assert text_of(events).count(TEXT.split()[0]) >= 60 * 16000 // len(SAMPLES)


PIECES = st.lists(st.integers(0, 40_000), min_size=1, max_size=6).filter(lambda s: sum(s) > 999)
# Speech with an offset, and then a pause in which an input may seem to be muted
SPOKEN = np.concatenate((SAMPLES / 2 + np.float32(0.2), np.zeros(6 * 16000, np.float32), SAMPLES))


@pytest.fixture(scope="module")
def expected(transcriber):
    events, _ = listen_to(transcriber, [SPOKEN])
    assert text_of_segments(events) == f"{TEXT} {TEXT}" and len(warnings_of(events)) == 2
    return events


def cut(samples, sizes):
    """Pieces of these sizes in turn, until the samples end."""
    at = 0
    for size in cycle(sizes):
        if at >= len(samples):
            return
        yield samples[at : at + size]
        at += size


@settings(max_examples=5, deadline=None)
@given(sizes=PIECES, empty=st.integers(0, 3))
@example(sizes=[331], empty=0)
def test_pushes_of_any_sizes_give_the_events_of_a_capture(sizes, empty, transcriber, expected):
    events = []
    session = StreamSession(transcriber.stream(), events.append)
    for piece in cut(SPOKEN, sizes):
        session.feed(piece)
        for _ in range(empty):
            session.feed(piece[:0])
    session.finish()
    assert without_warnings(events) == without_warnings(expected)
    assert sorted(warnings_of(events)) == sorted(warnings_of(expected))
    assert session.metrics.captured == len(SPOKEN) / 16000
    assert len(session.metrics.latencies) == (len(SPOKEN) - 40) // 1280 - 6


@settings(max_examples=4, deadline=None)
@given(sizes=PIECES)
def test_tokens_that_another_thread_brings_give_the_same_events(sizes, transcriber, expected):
    """As from an engine: the stream is fed here, and decodes there."""
    events, stream, fed = [], transcriber.stream(), SimpleQueue()
    session = LiveSession(stream, events.append)

    def decode():
        while (samples := fed.get()) is not None:
            for token in stream.iter_feed(samples):
                session.accept_token(token)
        for token in stream.iter_finish():
            session.accept_token(token)
        session.end()

    thread = threading.Thread(target=decode)
    thread.start()
    for piece in cut(SPOKEN, sizes):
        fed.put(session.take(piece))
    fed.put(session.end_audio())
    fed.put(None)
    thread.join()
    assert without_warnings(events) == without_warnings(expected)
    assert sorted(warnings_of(events)) == sorted(warnings_of(expected))
    assert len(session.metrics.latencies) == (len(SPOKEN) - 40) // 1280 - 6


@pytest.mark.parametrize("vad", [None, "energy"])
def test_tokens_that_come_behind_all_audio_give_the_same_events(vad, tiny_artifact, monkeypatch):
    """The guard has then chosen later words already, and speech behind them is known."""
    monkeypatch.setattr(guard, "BLANKS_UNPENALISED", 20)
    monkeypatch.setattr(guard, "BLANK_PENALTY_STEP", 1e4)
    monkeypatch.setattr(guard, "MAX_BLANK_PENALTY", 1e4)
    late, at_once, pieces = [], [], list(cut(SPOKEN, [1280]))
    with Transcriber(tiny_artifact, precision="q4", vad=vad) as one:
        session = StreamSession(one.stream(), at_once.append, one.speech_filter())
        for piece in pieces:
            session.feed(piece)
        session.finish()

        stream = one.stream()
        session = LiveSession(stream, late.append, one.speech_filter())
        tokens = [token for piece in pieces for token in stream.feed(session.take(piece))]
        tokens += [*stream.feed(session.end_audio()), *stream.finish()]
        for token in tokens:
            session.accept_token(token)
        session.end()

    assert sum("blank guard" in text for text in warnings_of(at_once)) > 1
    of_samples = [warning for warning in at_once if of_audio(warning)]
    assert len(of_samples) == 2 and late[:2] == of_samples
    assert late[2:] == [event for event in at_once if not of_audio(event)]


def of_audio(event) -> bool:
    return isinstance(event, StreamWarning) and "blank guard" not in event.text


def test_samples_held_back_at_the_end_are_the_stream_s(transcriber):
    """Less than a second may still turn out to have an offset."""
    session = StreamSession(transcriber.stream(), lambda event: None)
    session.feed(SAMPLES[:3000])
    held = session.stream.num_samples
    session.finish()
    assert held < 3000 == session.stream.num_samples


def test_a_session_ends_once(transcriber):
    events = []
    session = StreamSession(transcriber.stream(), events.append)
    session.feed(SAMPLES)
    session.finish()
    before, captured = list(events), session.metrics.captured
    session.finish()
    session.end()
    with pytest.raises(AudioError, match="has ended; begin another"):
        session.feed(np.ones(16000, np.float32))
    assert events == before and session.metrics.captured == captured
    assert text_of_segments(events) == TEXT


def test_samples_that_are_refused_change_nothing(transcriber):
    events = []
    session = StreamSession(transcriber.stream(), events.append)
    session.feed(SAMPLES[:9999])
    for wrong in (np.full(99, np.nan, np.float32), np.zeros((2, 99), np.float32), [1, 2]):
        with pytest.raises(AudioError):
            session.feed(wrong)
    session.feed(SAMPLES[9999:])
    session.finish()
    assert text_of_segments(events) == TEXT
    assert session.metrics.captured == len(SAMPLES) / 16000


def test_a_stream_that_fails_keeps_what_was_reported_and_reports_nothing_twice(
    transcriber, expected
):
    events, stream = [], transcriber.stream()
    session, write = StreamSession(stream, events.append), stream.writer.write

    def fail(sampled):
        if stream.writer.num_generated == 15:
            raise DeviceError("the device is gone")
        return write(sampled)

    stream.writer.write = fail
    with pytest.raises(DeviceError, match="is gone"):
        for piece in cut(SPOKEN, [1280]):
            session.feed(piece)
    before = list(events)
    for again in (lambda: session.feed(SPOKEN[:1280]), session.finish, session.finish):
        with pytest.raises(DeviceError, match="is gone"):
            again()
    assert events == before and 0 < len(text_of(events)) < len(TEXT)
    reported = without_warnings(events)
    assert reported == without_warnings(expected)[: len(reported)]


def test_any_failure_of_a_source_is_raised_behind_what_came_before(transcriber):
    notes = SimpleQueue()

    def blocks():
        yield SAMPLES
        notes.put("the cable is loose")
        raise OSError("unplugged")

    events = []
    with pytest.raises(OSError, match="unplugged"):
        StreamSession(transcriber.stream(), events.append).run(Capture(blocks(), notes))
    assert text_of_segments(events) == TEXT and warnings_of(events) == ["the cable is loose"]


def test_latency_counts_from_the_arrival_that_was_noted(transcriber):
    """Samples may wait before the session: they are behind, and their words are as late."""
    session = StreamSession(transcriber.stream(), lambda event: None)
    session.arrivals.add(len(SAMPLES), perf_counter() - 1000)
    half = len(SAMPLES) // 2
    session.feed(SAMPLES[:half])
    assert session.metrics.captured == len(SAMPLES) / 16000
    assert session.metrics.backlog > half / 16000
    session.feed(SAMPLES[half:])
    session.feed(SAMPLES)  # arrives now
    session.finish()
    assert session.metrics.captured == 2 * len(SAMPLES) / 16000
    late = (len(SAMPLES) - 40) // 1280 - 6
    latencies = list(session.metrics.latencies)
    assert min(latencies[:late]) > 1000 > max(latencies[late:])
