"""A client's speech tells of words, segments, flushes and turns in the order in which they are."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from support.commands import SAMPLES

from voxtral_onnx.runtime.live.events import SpeechStart, TurnEnd, TurnStart
from voxtral_onnx.runtime.live.turns import TurnRules
from voxtral_onnx.runtime.text.segments import Segment
from voxtral_onnx.runtime.tokens import Token
from voxtral_onnx.server.realtime.sound import SoundFormat
from voxtral_onnx.server.realtime.speech import Flushed, LiveSpeech, SpeechOptions

SOUND = SoundFormat("s16le", 16_000)
CLIPS = [
    soundfile.read(SAMPLES / f"{name}.wav", dtype="int16")[0]
    for name in ("command-hibari", "date-hibari")
]


def hear(engines, turns, pieces, flushes=False):
    """Events of a client that sends these pieces, with a flush behind each or without."""

    async def speak():
        speech = await LiveSpeech.open(engines, SpeechOptions(SOUND, turns=turns))

        async def send():
            for piece in pieces:
                await speech.append(piece.tobytes())
                if flushes:
                    await speech.flush()
            await speech.finish()

        sending = asyncio.create_task(send())
        found = [event async for event in speech.events()]
        await sending
        return found

    return asyncio.run(asyncio.wait_for(speak(), 60))


def parts(events, kinds):
    """The text and the segments up to each event of some kinds, and behind the last."""
    found, text, segments = [], "", ""
    for event in events:
        text += event.text if isinstance(event, Token) else ""
        segments += event.text if isinstance(event, Segment) else ""
        if isinstance(event, kinds):
            found.append((text, segments))
            text = segments = ""
    return [*found, (text, segments)]


@pytest.mark.parametrize("size", [999, 10**6])
def test_turns_end_behind_their_words_and_segments(engines, size):
    sound = np.concatenate([np.pad(clip, (0, 16_000)) for clip in CLIPS])
    pieces = [sound[at : at + size] for at in range(0, len(sound), size)]
    events = hear(engines, TurnRules(), pieces)
    order = [type(each) for each in events if isinstance(each, SpeechStart | TurnStart | TurnEnd)]
    assert order == 2 * [SpeechStart, TurnStart, TurnEnd]
    first, second, rest = parts(events, TurnEnd)
    assert first[0] == first[1] and second[0] == second[1] and first[0] and second[0]
    assert rest == ("", "")
    tokens = [each for each in events if isinstance(each, Token)]
    assert all(one.index + 1 == other.index for one, other in pairwise(tokens)), "blanks too"


def test_a_flush_is_told_behind_its_words_and_segments(engines):
    events = hear(engines, None, CLIPS, flushes=True)
    assert [each.number for each in events if isinstance(each, Flushed)] == [0, 1]
    *said, rest = parts(events, Flushed)
    assert rest == ("", "")
    assert all(text == segments and text for text, segments in said)
    ((alone, _),) = parts(hear(engines, None, CLIPS[:1]), Flushed)
    assert said[0][0] == alone, "as at the end of the sound"


def test_nothing_is_held_back_from_a_flush(engines):
    async def speak():
        speech = await LiveSpeech.open(engines, SpeechOptions(SOUND))
        for size in (777, 12_001, 3):  # of the first second some is held back otherwise
            before = speech.stream.num_samples
            await speech.append(CLIPS[0][:size].tobytes())
            await speech.flush()
            assert speech.stream.num_samples - before == size
        speech.close()

    asyncio.run(asyncio.wait_for(speak(), 60))


def test_without_rules_there_are_no_turns(engines):
    kinds = {type(each) for each in hear(engines, None, CLIPS[:1])}
    assert kinds == {Token, Segment}
