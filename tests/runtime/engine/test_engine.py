"""Recordings that are decoded together give the tokens that each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import CLIP, LONG_CLIP, SAMPLES, TEXT
from support.devices import Imitation
from support.recordings import alone, babble, by_length, transcriber_on

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import UsageError
from voxtral_onnx.runtime import opening, recordings
from voxtral_onnx.runtime import transcriber as transcribing
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.engine.slots import Slots
from voxtral_onnx.runtime.tokens import CLOSE_MARGIN, SampledToken

# Samples; in the longest the decoder's caches shift many times
LENGTHS = (0, 1, 1280, 16_000, 12_800, 50_000, 144_000)


@pytest.fixture(scope="module", params=[Cpu, Imitation])
def toy(request, toy_artifact):
    with (
        pytest.MonkeyPatch.context() as patch,
        transcriber_on(request.param(), patch, toy_artifact, precision="fp32") as found,
    ):
        found.batch_size = 3
        yield found


@pytest.fixture(scope="module")
def expected(toy):
    """Tokens of babble of each length."""
    return {length: alone(toy, babble(length)) for length in LENGTHS}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(2, 5) | st.just(9), st.lists(st.sampled_from(LENGTHS), max_size=11))
def test_together_as_alone(toy, expected, batch_size, lengths):
    """Recordings that begin late, end in any order, and leave gaps which the last one fills."""
    toy.batch_size = batch_size
    found = by_length(toy.transcribe_many(map(babble, lengths)))
    assert found == sorted((length, expected[length]) for length in lengths)


@pytest.mark.parametrize("delay_ms", [80, 960, 2400])
def test_delays(toy, delay_ms):
    found = by_length(toy.transcribe_many(map(babble, (16_000, 50_001)), delay_ms=delay_ms))
    assert found == [(n, alone(toy, babble(n), delay_ms)) for n in (16_000, 50_001)]


@pytest.mark.parametrize("is_sampled_here", [False, True])
def test_close_decisions_are_made_alone(toy, expected, monkeypatch, is_sampled_here):
    """With every decision called close, what is decided together does not count.

    It leaves no trace either, across shifts of the caches.
    """
    together = Slots._sample

    def spoilt(slots, *arguments):
        sampled = together(slots, *arguments)
        sampled[:, 0] = 5
        return sampled

    monkeypatch.setattr(Slots, "_sample", spoilt)
    monkeypatch.setattr(Slots, "_are_close", lambda slots, sampled: np.ones(len(sampled), bool))
    if is_sampled_here:
        monkeypatch.setattr(toy, "options", replace_alternatives(toy.options))
    found = by_length(toy.transcribe_many(map(babble, LENGTHS)))
    assert found == sorted(expected.items())


def replace_alternatives(options):
    from dataclasses import replace

    return replace(options, alternatives=2)


def test_alternatives_are_those_of_each_alone(toy, monkeypatch):
    """And another call of the same graph can fetch them afterwards."""
    monkeypatch.setattr(toy, "options", replace_alternatives(toy.options))
    sounds, found = [babble(n) for n in (16_000, 12_800, 1)], {}
    for transcript in toy.transcribe_many(
        sounds, on_token=lambda source, token: found.setdefault(source.duration, []).append(token)
    ):
        assert transcript.token_ids
    for sound in sounds:
        tokens = []
        assert toy.transcribe(sound, on_token=tokens.append).token_ids
        assert [(t.token_id, len(t.alternatives)) for t in found[len(sound) / 16000]] == [
            (t.token_id, len(t.alternatives)) for t in tokens
        ]


@pytest.mark.parametrize("precision", ["q4f16", "q4"])
def test_shipped_precisions_are_exact_up_to_eight(tiny_artifact, precision):
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
    clips = [clip for clip in clips if len(clip) < 60_000]
    with Transcriber(tiny_artifact, "cpu", precision=precision, batch_size=8) as transcriber:
        found = list(transcriber.transcribe_many(clips))
        assert by_length(found) == by_length(map(transcriber.transcribe, clips))
    assert all(each.info["batch"]["close_decisions"] == 0 for each in found)


def test_beyond_eight_close_decisions_are_counted(tiny_artifact, monkeypatch):
    """Tokens may differ from one on that was close; in float32 all stay the same."""
    monkeypatch.setattr(recordings, "MOST_EXACT", 1)
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
    clips = [clip for clip in clips if len(clip) < 60_000]
    counts = list[int]()
    with Transcriber(tiny_artifact, "cpu", precision="q4f16", batch_size=9) as transcriber:
        whole = {len(clip): alone_tokens(transcriber, clip) for clip in clips}
        for transcript in transcriber.transcribe_many(clips):
            counts.append(transcript.info["batch"]["close_decisions"])
            tokens = whole[round(16000 * transcript.duration)]
            for mine, token in zip(transcript.token_ids, tokens, strict=True):
                if mine != token.token_id:
                    assert is_close(token) and counts[-1]
                    break  # from there on contexts differ
        assert sum(counts) <= sum(is_close(t) for tokens in whole.values() for t in tokens) + 3
        monkeypatch.setattr(Slots, "_are_close", lambda slots, sampled: np.ones(len(sampled), bool))
        [transcript] = transcriber.transcribe_many(clips[:1])
        assert transcript.info["batch"]["close_decisions"] == len(transcript.token_ids)


def alone_tokens(transcriber, samples):
    tokens = []
    assert transcriber.transcribe(samples, on_token=tokens.append).token_ids
    return tokens


def is_close(token) -> bool:
    return SampledToken(token.token_id, token.logprob, token.blank_margin).is_close() or (
        abs(token.blank_margin) < 2 * CLOSE_MARGIN
    )


def test_a_rolling_window(tiny_artifact):
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("n*.wav"))]
    clips.insert(1, soundfile.read(LONG_CLIP, dtype="float32")[0])
    with Transcriber(
        tiny_artifact, "cpu", precision="fp32", context=64, batch_size=2
    ) as transcriber:
        found = by_length(transcriber.transcribe_many(clips))
        assert found == sorted((len(clip), alone(transcriber, clip)) for clip in clips)
        spec = transcriber.model.decoder.spec
        assert max(len(ids) for _, ids in found) > spec.capacity + 10 * (spec.capacity - spec.keep)


def test_a_recording_ends_at_the_end_of_text(toy, expected, monkeypatch):
    """It is not read to its end either, and what is wrong there is not its error."""
    tokens = expected[144_000]
    at = next(i for i in range(5, len(tokens)) if tokens[i] not in tokens[:i])
    from dataclasses import replace

    init = Slots.__init__

    def with_eos(slots, *arguments, **options):
        init(slots, *arguments, **options)
        slots._ids = replace(slots._ids, eos=tokens[at])

    monkeypatch.setattr(Slots, "__init__", with_eos)
    found = dict(by_length(toy.transcribe_many([babble(144_000), babble(1)])))
    assert found == {144_000: tokens[: at + 1], 1: expected[1]}


def test_recordings_come_as_they_end_and_are_taken_as_slots_become_free(toy, monkeypatch):
    monkeypatch.setattr(recordings, "AHEAD", 1)
    monkeypatch.setattr(opening, "MOST_THREADS", 1)
    monkeypatch.setattr(opening, "AHEAD", 1)
    toy.batch_size, taken = 2, []

    def sources():
        for length in (144_000, 1, 1280, 16_000, 12_800):
            taken.append(length)
            yield babble(length)

    found = [(round(16000 * t.duration), len(taken)) for t in toy.transcribe_many(sources())]
    assert found[0] == (1, 3) and found[-1] == (144_000, 5)
    assert [count for _, count in found] == [3, 4, 5, 5, 5]


def test_one_recording_at_a_time_decodes_while_it_is_iterated(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu") as transcriber:
        (transcript,) = transcriber.transcribe_many([CLIP])
        assert not transcript._token_ids
        assert transcript.text.strip() == TEXT
        assert next(transcriber.transcribe_many([CLIP], delay_ms=960)).info["delay_ms"] == 960


def test_info_shares_the_time_of_calls(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", batch_size=2) as transcriber:
        one, two = transcriber.transcribe_many([CLIP, CLIP])
        assert one.info.keys() == two.info.keys() == transcriber.transcribe(CLIP).info.keys()
    assert one.info["decode_ms"] > 0 and two.info["decode_ms"] > 0
    assert one.info["encode_ms"] > 0 and two.info["encode_ms"] > 0
    assert one.writer.timings.steps == two.writer.timings.steps > len(one.token_ids)


@pytest.mark.parametrize("batch_size", [0, -1, 1025, 10**9])
def test_no_slots(tiny_artifact, batch_size):
    with pytest.raises(UsageError, match="batch size: expected 1 to 1024 files, or 'auto', got"):
        Transcriber(tiny_artifact, "cpu", batch_size=batch_size)


def test_a_device_is_not_replaced(tiny_artifact, monkeypatch):
    device = Cpu()
    device.name, device.supports_batching = "webgpu:0", False
    monkeypatch.setattr(transcribing, "open_device", lambda *arguments, **options: device)
    with pytest.raises(UsageError, match="together on CPU and CUDA, not on webgpu:0; leave it out"):
        Transcriber(tiny_artifact, "webgpu", batch_size=2)
