"""What was kept of a recording, and the stream that goes on behind it."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from golden.make import TOKENS
from hypothesis import given
from hypothesis import strategies as st
from reference import toy
from support.commands import LONG_CLIP

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime import kept as keeping
from voxtral_onnx.runtime.kept import Kept, find_lead_in, keep
from voxtral_onnx.runtime.text.segments import Grouper

SPEECH = soundfile.read(LONG_CLIP, dtype="float32")[0]
BLANK, WORD, TEXT = TOKENS.streaming_pad, TOKENS.streaming_word, 1381


@pytest.fixture(scope="module")
def tiny(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", precision="fp32", batch_size=2) as transcriber:
        yield transcriber


@pytest.fixture(scope="module")
def whole(tiny):
    """The tokens of a run that nothing interrupts, and its transcript."""
    tokens = []
    transcript = tiny.transcribe(SPEECH, on_token=tokens.append)
    assert len(transcript.segments) > 30
    return tokens, transcript


def kept_of(transcriber, tokens, number):
    """What a journal has when so many segments are whole."""
    grouper, segments, ids = Grouper(TOKENS), [], []
    for token in tokens:
        ids.append(token.token_id)
        if segment := grouper.push(token):
            segments.append(segment)
            if len(segments) == number:
                return keep(transcriber.manifest, transcriber.model.grid, segments, ids, [])
    raise AssertionError("so many are never whole")


def facts(segments):
    return [(each.id, each.text, each.start, each.end, each.token_ids) for each in segments]


@pytest.mark.parametrize("number", [8, 25])
def test_the_rest_is_what_it_would_have_been(number, tiny, whole, monkeypatch):
    """In the middle of speech, too, alone and in a batch; tokens come once and in their places."""
    monkeypatch.setattr(keeping, "LEAD_SECONDS", 5.12)
    tokens, transcript = whole
    kept, found = kept_of(tiny, tokens, number), []
    assert (kept.lead_in > 0) == (number > 20)
    [other] = tiny.transcribe_many(
        [SPEECH], kept=lambda source: kept, on_token=lambda source, token: found.append(token)
    )
    found_alone = []
    alone = tiny.transcribe(SPEECH, kept=kept, on_token=found_alone.append)
    assert facts(alone.decoded) == facts(transcript.segments[:number])
    for each in (alone, other):
        assert each.token_ids == transcript.token_ids
        assert facts(each.segments) == facts(transcript.segments)
        assert (each.text, each.duration) == (transcript.text, transcript.duration)
        assert each.info["resumed_at"] == [round(kept.start, 3)]
    for each in (found, found_alone):
        places = [(token.index, token.token_id, token.end, token.text) for token in each]
        assert places == [
            (token.index, token.token_id, pytest.approx(token.end), token.text)
            for token in tokens[len(kept.token_ids) :]
        ]


def test_given_tokens_are_taken_as_they_are(toy_artifact):
    """Whatever the model would have written; what follows is what it writes behind them."""
    samples, rng = toy.babble(6.0), np.random.default_rng(3)
    with Transcriber(toy_artifact, "cpu", precision="fp32") as transcriber:
        own = transcriber.transcribe(samples).token_ids
        ids = [*rng.permutation(own[:41]).tolist()]
        assert ids != list(own[:41])
        stream = transcriber.stream()
        stream.give(ids)
        found = [token.token_id for token in stream.feed(samples) + stream.finish()]

        # One position a call, through the decoder alone
        other = transcriber.stream()
        other._take(samples)
        embeds = np.concatenate([*other._encode(), *other._encode_tail()])
        cache, first = other.decoder_cache, other.decoder_cache.position
        expected, next_id = [], BLANK
        for position in range(first, first + len(embeds)):
            row = embeds[position - first][None]
            [sampled] = other.decoder.step(
                cache, [next_id], row, other.num_delay_tokens, [0.0], None
            )
            next_id = BLANK
            if position >= other.prompt_length - 1:
                known = len(expected) < len(ids)
                next_id = ids[len(expected)] if known else sampled.token_id
                expected.append(next_id)
    assert found == expected and found[:41] == ids and found != list(own)


@given(
    st.lists(st.sampled_from([BLANK, BLANK, BLANK, WORD, TEXT]), max_size=400),
    st.integers(1, 120),
    st.integers(20, 80),
)
def test_a_lead_in_is_long_enough_and_where_calls_begin(ids, period, least):
    place = find_lead_in(ids, TOKENS, period=period, least=least)
    assert place % period == 0
    assert place == 0 or least <= len(ids) - place <= least + max(least, period)


def test_a_lead_in_begins_in_a_pause():
    ids = [WORD, TEXT] * 100
    ids[70:95] = [BLANK] * 25
    assert 70 < find_lead_in(ids, TOKENS, period=4, least=70) < 95
    assert find_lead_in(ids, TOKENS, period=4, least=20) > 95  # as late as it may be


def test_nothing_kept_is_the_beginning():
    assert (Kept().start, Kept().heard_from, Kept().given_ids) == (0.0, 0.0, ())
