"""Rung 6 in small: the trained checkpoint writes its stored transcripts."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from voxtral_onnx import Transcriber

SAMPLES = Path(__file__).parents[1] / "assets" / "tiny" / "samples"
STORED = json.loads((SAMPLES / "transcripts.json").read_text())["samples"]
FIRM = 0.2  # stored gaps to the next token above this survive rounding in other precisions
DELAYS = {240: "model_text_delay_3", 480: "model_text", 960: "model_text_delay_12"}


@pytest.fixture(scope="module")
def transcribers(tiny_artifact):
    opened = {}
    yield lambda precision: opened.setdefault(
        precision, Transcriber(tiny_artifact, precision=precision)
    )
    for transcriber in opened.values():
        transcriber.close()


@pytest.mark.parametrize("sample", STORED, ids=lambda sample: sample["file"])
def test_float32_gives_the_stored_ids(transcribers, sample):
    transcript = transcribers("fp32").transcribe(SAMPLES / sample["file"])
    assert list(transcript.token_ids) == sample["ids"]
    assert transcript.text == sample["model_text"]


@pytest.mark.parametrize("precision", ["q8", "fp16"])
@pytest.mark.parametrize(
    "sample", [s for s in STORED if s["smallest_gap"] > FIRM], ids=lambda sample: sample["file"]
)
def test_8_and_16_bits_give_the_stored_ids_of_firm_clips(transcribers, sample, precision):
    assert (
        list(transcribers(precision).transcribe(SAMPLES / sample["file"]).token_ids)
        == sample["ids"]
    )


@pytest.mark.parametrize("precision", ["q4", "q4f16"])
@pytest.mark.parametrize(
    "sample", [s for s in STORED if s["smallest_gap"] > FIRM], ids=lambda sample: sample["file"]
)
def test_4_bits_give_the_stored_text_of_firm_clips(transcribers, sample, precision):
    """Ids may stand one token later.

    4 bits of a network 256 wide move margins by more than the gaps.
    """
    assert transcribers(precision).transcribe(SAMPLES / sample["file"]).text == sample["model_text"]


@pytest.mark.parametrize("delay", DELAYS)
def test_every_trained_delay(transcribers, delay):
    transcriber = transcribers("fp32")
    for sample in STORED:
        assert (
            transcriber.transcribe(SAMPLES / sample["file"], delay_ms=delay).text
            == sample[DELAYS[delay]]
        )


def test_segments_carry_the_text_in_order(transcribers):
    transcript = transcribers("fp32").transcribe(SAMPLES / "long-mixed.wav")
    segments = list(transcript)
    assert "".join(segment.text for segment in segments).strip() == transcript.text
    assert all(a.end <= b.end and a.end <= b.start for a, b in pairwise(segments))
    assert all(0 <= s.start <= s.end <= transcript.duration and s.logprob <= 0 for s in segments)
    assert segments == transcript.segments
