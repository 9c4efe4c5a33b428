"""Sound as it is spoken loses nothing, and gives the text of a file."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from math import ceil
from queue import SimpleQueue

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from support.commands import CLIP, TEXT

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import AudioError, UsageError
from voxtral_onnx.runtime import guard
from voxtral_onnx.runtime.audio.pipes import raw_blocks
from voxtral_onnx.runtime.live import (
    BEHIND_SECONDS,
    Capture,
    Silence,
    StreamMetrics,
    StreamWarning,
    _Watch,
    listen,
)
from voxtral_onnx.runtime.text.segments import Segment
from voxtral_onnx.runtime.tokens import Token

SAMPLES = soundfile.read(CLIP, dtype="float32")[0]


@pytest.fixture(scope="module")
def transcriber(tiny_artifact):
    with Transcriber(tiny_artifact, precision="q4") as transcriber:
        yield transcriber


def listen_to(transcriber, blocks):
    """Events and metrics of a live stream."""
    events, metrics = [], StreamMetrics()
    listen(transcriber.stream(), Capture(iter(blocks)), metrics, events.append)
    return events, metrics


def text_of(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Token)).strip()


class Pipe(io.RawIOBase):
    """A reader that returns what was sent at one time, as a pipe does."""

    def __init__(self, parts):
        self.parts = iter(parts)

    def read(self, size=-1):
        return next(self.parts, b"")


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
        listen(transcriber.stream(), Capture(blocks()), StreamMetrics(), events.append)
    assert text_of(events) == TEXT


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

    listen(transcriber.stream(), capture, StreamMetrics(), on_event)
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
    listen(transcriber.stream(), capture, StreamMetrics(), events.append)
    texts = [event.text for event in events if isinstance(event, StreamWarning)]
    assert texts == ["it begins", "it ends"] and text_of(events) == TEXT


def test_guards_that_fire_are_reported(transcriber, monkeypatch):
    """A rut of blanks that ends by force, and an end of text that ends nothing."""
    monkeypatch.setattr(guard, "BLANKS_UNPENALISED", 20)
    monkeypatch.setattr(guard, "BLANK_PENALTY_STEP", 1e4)
    monkeypatch.setattr(guard, "MAX_BLANK_PENALTY", 1e4)
    stream, events = transcriber.stream(), []
    listen(stream, Capture(iter([np.zeros(5 * 16000, np.float32)])), StreamMetrics(), events.append)
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
    stream.ids = replace(stream.ids, eos=tokens[first])
    listen(stream, Capture(iter([SAMPLES])), StreamMetrics(), events.append)
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
    metrics = StreamMetrics()
    events = []

    def on_event(event):
        events.append(event)
        taken.append(metrics.backlog)

    listen(stream, capture, metrics, on_event)
    assert max(taken) > BEHIND_SECONDS
    assert not any(isinstance(event, StreamWarning) for event in events)
    assert stream.num_samples >= 60 * 16000
    assert text_of(events).count(TEXT.split()[0]) >= 60 * 16000 // len(SAMPLES)


BEHIND = f"more than {BEHIND_SECONDS:.0f} s behind: this machine is slower than the speech"


@pytest.mark.parametrize(
    ("pace", "works", "is_said"),
    [
        (1, [0.5] * 60, True),  # of a second's speech, half is transcribed within it
        (1, [1.1] * 60, False),
        (20, [5.0] * 60, False),  # a file, piped faster than anyone speaks
        (20, [0.8] * 60, True),  # as fast as it may come, it would have come too late
        (1, [1.0] * 10 + [0.0] * 5 + [2.0] * 10, False),  # another program had the processor
        (1, [1.0] * 10 + [0.0] * 5 + [0.9] * 10, True),
    ],
)
def test_behind_is_what_falls_behind_in_the_time_of_speech(pace, works, is_said):
    """Seconds of audio that come, and that are transcribed, in each second of the clock."""
    watch, metrics, said = _Watch(16000), StreamMetrics(), []
    for second, work in enumerate(works):
        said += watch.inspect_pace(metrics, 1000.0 + second)
        metrics.captured += pace
        metrics.transcribed = min(metrics.captured, metrics.transcribed + work)
    assert [text.partition(";")[0] for text in said] == [BEHIND] * is_said


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_raw_samples_in_any_pieces(sizes):
    values = np.arange(-400, 400, dtype="<i2")
    data, parts, at = values.tobytes(), [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    parts = [part for part in [*parts, data[at:]] if part]
    found = np.concatenate(list(raw_blocks(Pipe(parts), "s16le", 16000, 16000)))
    assert np.array_equal(found, values / np.float32(1 << 15))


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_another_rate_is_resampled_to_its_end(rate):
    samples = np.sin(np.arange(rate, dtype=np.float32) / 20)
    parts = np.split(samples, range(999, rate, 999))
    found = np.concatenate(
        list(raw_blocks(Pipe([p.tobytes() for p in parts]), "f32le", rate, 16000))
    )
    expected = soxr.resample(samples, rate, 16000)
    assert abs(len(found) - len(expected)) <= 1
    assert np.abs(found[: len(expected)] - expected[: len(found)]).max() < 1e-3


def test_half_a_sample_at_the_end():
    blocks = raw_blocks(Pipe([b"\1\0\2"]), "s16le", 16000, 16000)
    assert len(next(blocks)) == 1
    with pytest.raises(AudioError, match=r"ends inside a sample: 1 of 2 bytes \(s16le\)"):
        next(blocks)


@pytest.mark.parametrize(
    ("kind", "rate", "words"), [("s24le", 16000, "sample format"), ("s16le", 10, "rate")]
)
def test_misuse(kind, rate, words):
    with pytest.raises(UsageError, match=words):
        next(raw_blocks(Pipe([]), kind, rate, 16000))
