"""Turns begin with speech and end in silence or without words, each around its own words."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import SAMPLES

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.runtime.live.events import (
    SpeechStart,
    TurnEagerEnd,
    TurnEnd,
    TurnResume,
    TurnStart,
)
from voxtral_onnx.runtime.live.session import LiveSession, StreamSession
from voxtral_onnx.runtime.live.turns import LEAST_SOUND, TurnDetector, TurnRules
from voxtral_onnx.runtime.text.segments import Segment
from voxtral_onnx.runtime.tokens import Token

RATE = 16_000
TURNS = SpeechStart, TurnStart, TurnEagerEnd, TurnResume, TurnEnd
RULES = TurnRules()


class Conversation:
    """A detector whose tokens follow the sound by the delay of 0.48 s, or when it is flushed."""

    def __init__(self, rules=RULES, *, flushes=True):
        self.events, self.flushes = [], flushes
        self.detector = TurnDetector(rules, RATE, self.events.append)
        self.seconds, self.num_tokens = 0.0, 0
        self.words: list[tuple[float, str]] = []  # that are spoken: their ends
        self.rng = np.random.default_rng(1)
        self.floor = 1e-5

    def hear(self, seconds, level=0.0, words=""):
        """Sound of a level; words are spread over it."""
        for at, word in enumerate(words.split()):
            end = self.seconds + seconds * (at + 1) / len(words.split())
            self.words.append((end, word))
        noise = np.asarray(self.rng.normal(size=round(seconds * RATE)), np.float32)
        samples = noise * np.float32(max(level, self.floor))
        while len(samples):
            size = self.detector.hear(samples[:640])
            self.seconds += size / RATE
            samples = samples[size:]
            self._decode(self.seconds - 0.48)
            if self.detector.is_ending:
                if not self.flushes:
                    self.detector.end_turn()
                    continue
                self.detector.end_turn(self.num_tokens + 3)
                for _ in range(3):
                    self._write(self.seconds, self.seconds)

    def _decode(self, until):
        while (end := (self.num_tokens + 1) * 0.08) <= until:
            self._write(min(end, until), until)

    def _write(self, end, until):
        text = ""
        while self.words and self.words[0][0] <= until:
            text += self.words.pop(0)[1]
        token = Token(self.num_tokens, 32 + bool(text), text, end, -0.1, 0.0)
        self.detector.begin_token(token)
        if text:
            self.events.append(text)
        self.detector.end_token(token)
        self.num_tokens += 1

    def finish(self):
        self._decode(self.seconds + 0.08)
        self.detector.finish()
        return names(self.events)


def names(events):
    return [each if isinstance(each, str) else type(each).__name__ for each in events]


@pytest.mark.parametrize("flushes", [True, False])
def test_a_turn(flushes):
    heard = Conversation(flushes=flushes)
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one two")
    heard.hear(2.5)
    start, began, *_, eager, end = [each for each in heard.events if isinstance(each, TURNS)]
    assert isinstance(end, TurnEnd)
    assert heard.finish()[-1] == "TurnEnd"
    assert isinstance(began, TurnStart) and isinstance(eager, TurnEagerEnd)
    assert start.time == pytest.approx(1.0) and end.time == eager.time == pytest.approx(2.0)
    assert end.reason == "threshold"
    order = names(heard.events)
    assert order.index("TurnStart") < order.index("one") < order.index("two") < len(order) - 1


def test_a_pause_within_a_turn():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one two")
    heard.hear(RULES.min_silence - 0.1)
    heard.hear(1.0, 0.1, "three")
    found = [each for each in heard.events if isinstance(each, TURNS)]
    assert names(found) == ["SpeechStart", "TurnStart", "TurnEagerEnd", "TurnResume"]
    assert found[-1].time == pytest.approx(2.0 + RULES.min_silence - 0.1)
    heard.hear(RULES.min_silence / 2 - 0.1)
    heard.hear(0.5, 0.1)
    assert [each for each in heard.events if isinstance(each, TURNS)] == found, "too short to tell"


@pytest.mark.parametrize("flushes", [True, False])
def test_the_next_turn_begins_behind_the_words_of_the_last(flushes):
    heard = Conversation(flushes=flushes)
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one")
    heard.hear(RULES.min_silence + 0.02)
    heard.hear(1.0, 0.1, "two")
    heard.hear(1.5)
    order = [name for name in heard.finish() if name != "TurnEagerEnd"]
    turn = ["SpeechStart", "TurnStart", "one", "TurnEnd"]
    assert order == [*turn, *(each.replace("one", "two") for each in turn)]


def test_a_pause_behind_the_only_word_is_told_when_that_has_come():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(0.2, 0.1, "yes")
    heard.hear(1.0)
    assert heard.finish() == ["SpeechStart", "TurnStart", "TurnEagerEnd", "yes", "TurnEnd"]


@pytest.mark.parametrize("flushes", [True, False])
def test_a_word_right_at_the_start_of_the_next_turn_is_its_own(flushes):
    heard = Conversation(flushes=flushes)
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one")
    heard.hear(RULES.min_silence + 0.02)
    heard.hear(0.02, 0.1, "two")
    heard.hear(0.5, 0.1)
    order = [name for name in heard.finish() if name != "TurnEagerEnd"]
    turn = ["SpeechStart", "TurnStart", "one", "TurnEnd"]
    assert order == [*turn, *(each.replace("one", "two") for each in turn)]


def test_a_click_is_no_speech():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(LEAST_SOUND - 0.02, 0.1)
    heard.hear(3.0)
    assert heard.finish() == []


def test_a_sound_without_words_is_a_turn_that_ends():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(0.3, 0.1)
    heard.hear(1.0)
    assert names(heard.events) == ["SpeechStart", "TurnEnd"]
    assert heard.events[-1].reason == "threshold"


def test_noise_that_goes_on_ends_once():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(RULES.timeout + 1.5, 0.1)
    assert names(heard.events) == ["SpeechStart", "TurnEnd"]
    assert heard.events[-1].reason == "timeout"
    heard.hear(1.0, 0.1, "word")
    heard.hear(0.5, 0.1)
    assert names(heard.events)[2:] == ["SpeechStart", "TurnStart", "word"], "within the same noise"


def test_in_noise_a_turn_ends_without_words():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one two")
    heard.hear(2.5, 0.1)
    assert names(heard.events) == ["SpeechStart", "TurnStart", "one", "two", "TurnEnd"]
    assert heard.events[-1].time == pytest.approx(2.0, abs=0.09)
    assert heard.events[-1].reason == "threshold"


def test_an_end_is_no_earlier_than_the_speech_that_went_on():
    """Though the words had ended before the sound that came after them."""
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one two")
    heard.hear(RULES.min_silence - 0.1)
    heard.hear(RULES.timeout + 1, 0.1)
    *_, resume, end = [each for each in heard.events if isinstance(each, TURNS)]
    assert isinstance(resume, TurnResume) and isinstance(end, TurnEnd)
    assert end.time == resume.time == pytest.approx(2.0 + RULES.min_silence - 0.1)


def test_sounds_that_come_and_go_end_a_turn_in_time():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one")
    while heard.seconds < 2.0 + RULES.timeout + 1:
        heard.hear(0.3)
        heard.hear(0.3, 0.1)
    found = [each for each in heard.events if isinstance(each, TURNS)]
    assert names(found).count("TurnEnd") == 1
    *_, sound, end = found[: names(found).index("TurnEnd") + 1]
    assert isinstance(sound, TurnResume | TurnEagerEnd) and isinstance(end, TurnEnd)
    assert end.reason == "timeout" and end.time == sound.time < 2.0 + RULES.timeout + 0.6


def test_words_that_the_sound_does_not_tell_of_are_in_a_turn():
    heard = Conversation()
    heard.hear(2.0, words="faint")
    heard.hear(3.0)
    assert heard.finish() == ["SpeechStart", "TurnStart", "faint", "TurnEnd"]


def test_the_end_of_the_sound_ends_the_turn():
    heard = Conversation()
    heard.hear(1.0)
    heard.hear(1.0, 0.1, "one")
    assert heard.finish() == ["SpeechStart", "TurnStart", "one", "TurnEnd"]


SOUNDS = st.tuples(
    st.floats(0.02, 2), st.sampled_from([0.0, 1e-4, 1e-2, 0.3]), st.sampled_from(["", "a", "b c"])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SOUNDS, max_size=12), st.booleans(), st.sampled_from([0.1, 0.5, 1.5]))
def test_all_text_is_within_turns(sounds, flushes, min_silence):
    heard = Conversation(TurnRules(min_silence), flushes=flushes)
    for sound in sounds:
        heard.hear(*sound)
    is_open = has_words = is_eager = False
    heard.finish()
    assert not heard.words, "all were written"
    for event in heard.events:
        match event:
            case SpeechStart():
                assert not is_open
                is_open, has_words, is_eager = True, False, False
            case TurnStart():
                assert is_open and not has_words
                has_words = True
            case TurnEagerEnd():
                assert has_words and not is_eager
                is_eager = True
            case TurnResume():
                assert is_open and is_eager
                is_eager = False
            case TurnEnd():
                assert is_open
                is_open = False
            case str():
                assert is_open and has_words
    assert not is_open
    times = [event.time for event in heard.events if isinstance(event, TURNS)]
    assert times == sorted(times)


@pytest.fixture(scope="module")
def sound():
    """Two clips, each with a pause behind it; and where each ends."""
    clips = [np.float32(soundfile.read(path)[0]) for path in sorted(SAMPLES.glob("*.wav"))[:2]]
    return np.concatenate([np.pad(each, (0, 24_000)) for each in clips])


@pytest.mark.parametrize("size", [700, 10**6])
def test_turns_of_a_stream_in_an_engine(tiny_artifact, sound, size):
    """Whatever the pieces, and flushed in time: the segments of a turn come before its end."""
    events = []
    with (
        Transcriber(tiny_artifact, precision="fp32") as transcriber,
        Engine(transcriber, most_streams=1) as engine,
        engine.open() as stream,
    ):
        session = LiveSession(stream, events.append, turns=RULES, flush=stream.flush)
        for at in range(0, len(sound), size):
            for piece in session.pieces(session.take(sound[at : at + size])):
                stream.feed(piece)
        for piece in session.pieces(session.end_audio()):
            stream.feed(piece)
        stream.finish()
        for token in stream.events:
            session.accept_token(token)
        session.end()
    require_words_in_turns(events)


def test_turns_do_not_change_the_text_of_a_lone_stream(tiny_artifact, sound):
    events, expected = [], []
    with Transcriber(tiny_artifact, precision="q4") as transcriber:
        for found, rules in ((events, RULES), (expected, None)):
            session = StreamSession(transcriber.stream(), found.append, turns=rules)
            for at in range(0, len(sound), 999):
                session.feed(sound[at : at + 999])
            session.finish()
    require_words_in_turns(events)
    assert [each for each in events if isinstance(each, Token)] == [
        each for each in expected if isinstance(each, Token)
    ]


def require_words_in_turns(events):
    order = names(each for each in events if isinstance(each, TURNS))
    shown = [each for each in order if each not in ("TurnEagerEnd", "TurnResume")]
    assert shown == 2 * ["SpeechStart", "TurnStart", "TurnEnd"]
    text = segments = ""
    for event in events:
        match event:
            case Token():
                text += event.text
            case Segment():
                segments += event.text
            case TurnEnd():
                assert text and segments == text
                text = segments = ""
    assert not text
