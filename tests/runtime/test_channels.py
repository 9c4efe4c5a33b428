"""Channels that are transcribed each on its own keep both voices, and say whose each word is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from support.commands import SAMPLES, TEXTS

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.text.captions import render

RATE = 16000
LEFT, RIGHT = "command-hibari", "date-hibari"


@pytest.fixture(scope="module")
def transcriber(tiny_artifact):
    with Transcriber(tiny_artifact) as transcriber:
        yield transcriber


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Two who speak at the same time, a channel each."""
    left, right = (soundfile.read(SAMPLES / f"{name}.wav")[0] for name in (LEFT, RIGHT))
    channels = np.zeros((len(right) + RATE, 2))
    channels[: len(left), 0] = left
    channels[RATE:, 1] = right * 0.5
    path = tmp_path_factory.mktemp("call") / "call.wav"
    soundfile.write(path, channels, RATE)
    return path


def assert_call(transcript) -> None:
    left, right = TEXTS[f"{LEFT}.wav"], TEXTS[f"{RIGHT}.wav"]
    assert transcript.text == f"left: {left}\nright: {right}"
    segments = transcript.segments
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert [segment.start for segment in segments] == sorted(s.start for s in segments)
    for channel, text in enumerate((left, right)):
        own = [segment.text for segment in segments if segment.channel == channel]
        assert "".join(own).strip() == text
        assert transcript.parts[channel].text == text
    assert segments[0].channel == 0 and segments[-1].channel == 1


def test_two_voices_at_the_same_time(call, transcriber):
    tokens = []
    transcript = transcriber.transcribe(call, channels="split", on_token=tokens.append)
    assert transcript.decoded == [] and transcript.info["channels"][0]["tokens"] == 0
    assert list(transcript) == transcript.segments
    assert_call(transcript)
    assert len(tokens) == len(transcript.token_ids) == transcript.num_tokens
    info = transcript.info
    assert sum(each["tokens"] for each in info["channels"]) == len(tokens)
    assert info["encode_ms"] > max(part.info["encode_ms"] for part in transcript.parts)
    values = json.loads(render(transcript, "json"))
    assert {segment["channel"] for segment in values["segments"]} == {0, 1}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_split_recordings_among_many(batch_size, call, tiny_artifact):
    clip = SAMPLES / f"{LEFT}.wav"
    with Transcriber(tiny_artifact, batch_size=batch_size) as transcriber:
        sources = [open_audio(call, RATE, channels="split"), open_audio(clip, RATE)]
        done = {each.source.name: each for each in transcriber.transcribe_many(sources)}
        assert_call(done[str(call)])
        assert done[str(clip)].text == TEXTS[clip.name]
        [again] = transcriber.transcribe_many([call], channels="split")
        assert_call(again)


def test_a_channel_of_a_recording(call, transcriber):
    for name, file in (("left", LEFT), ("right", RIGHT)):
        transcript = transcriber.transcribe(call, channels=name)
        assert transcript.text == TEXTS[f"{file}.wav"]
        assert {segment.channel for segment in transcript.segments} == {None}
    with pytest.raises(AudioError, match="no right channel"):
        transcriber.transcribe(SAMPLES / f"{LEFT}.wav", channels="right")


def test_what_ended_one_channel_is_raised_and_what_was_decoded_stays(call, transcriber):
    tokens = iter(range(60))

    def broken(token):
        if next(tokens, None) is None:
            raise AudioError("damaged")

    transcript = transcriber.transcribe(call, channels="split", on_token=broken)
    with pytest.raises(AudioError, match="damaged"):
        _ = transcript.text
    assert {segment.channel for segment in transcript.decoded} == {0}
    assert transcript.info["channels"] == [{"channel": 0, "tokens": transcript.num_tokens}]


def test_one_channel_on_its_own_has_no_name(transcriber, tmp_path):
    samples = soundfile.read(SAMPLES / f"{LEFT}.wav")[0]
    transcript = transcriber.transcribe(SAMPLES / f"{LEFT}.wav", channels="split")
    assert transcript.text == TEXTS[f"{LEFT}.wav"]
    assert {segment.channel for segment in transcript.segments} == {0}
    soundfile.write(tmp_path / "a.wav", np.stack((samples, samples), 1), RATE)
    transcript = transcriber.transcribe(tmp_path / "a.wav", channels="split")
    assert transcript.text == f"left: {TEXTS[f'{LEFT}.wav']}"
    assert transcript.source.notes == ("channel 2 is the same as channel 1: left out",)
