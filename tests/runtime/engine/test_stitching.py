"""Tokens of pieces come in order and once, whatever thread is ahead of the other."""

from __future__ import annotations

from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import pytest
from support.recordings import babble

from voxtral_onnx import Transcriber
from voxtral_onnx.config import AudioConfig
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.engine.recording import BURST, FileRecording, Prefix
from voxtral_onnx.runtime.engine.sound import Sound
from voxtral_onnx.runtime.engine.stitching import Stitching
from voxtral_onnx.runtime.engine.written import Burst, End, Join
from voxtral_onnx.runtime.pieces.cutter import Cut, Cutter
from voxtral_onnx.runtime.writer import StreamOptions, TokenWriter


@pytest.fixture(scope="module")
def model(toy_artifact):
    with Transcriber(toy_artifact, "cpu", precision="fp32") as transcriber:
        yield transcriber.model


@pytest.fixture
def recording(model) -> FileRecording:
    """A recording that may be cut, of which nothing is heard yet."""
    audio: AudioConfig = model.manifest.config.audio
    source = open_audio(babble(400_000), 16000)
    cutter, sound = Cutter(audio, 25.0, 4), Sound(model, source, 6)
    return FileRecording.of(model, sound, Prefix(0, []), 6, events=SimpleQueue(), cutter=cutter)


@pytest.fixture
def stitching(model, recording) -> Stitching:
    return Stitching(
        recording,
        TokenWriter(model.facts, StreamOptions(6)),
        lambda token: None,
        recording.sound.source,
    )


def cut_at(recording: FileRecording, *tokens: int) -> None:
    """Decide cuts, and encode all up to a little after the last."""
    recording._cuts.extend(Cut(token, 0, 0) for token in tokens)
    place = recording.first + max(tokens) + 20
    recording.append(np.zeros((place - recording.num_encoded, 96), np.float32))


def burst(run, first: int, ids: range) -> Burst:
    sampled = np.array([(each, 0.0, -1.0) for each in ids], np.float32)
    return Burst(run, run.piece.end, first, sampled, [], 0, len(ids), 0.0)


def ids(stitching: Stitching) -> list[int]:
    return [token.token_id for token in stitching.tokens]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_join_between_two_bursts(recording, stitching, is_ahead):
    """Token 100 + k is the k-th; the piece's end is at 30, and it goes on to 60."""
    cut_at(recording, 30, 60)
    left, middle, right = recording.runs
    events: list[Burst | Join] = [burst(left, 0, range(100, 134)), burst(left, 34, range(134, 140))]
    events.insert(1, burst(middle, 30, range(7, 17)))
    if not is_ahead:
        for each in events:
            stitching.take(each)
    assert recording.join(left) is middle
    events.append(Join(left, middle, left.piece.end))
    for each in events if is_ahead else events[-1:]:
        stitching.take(each)
    stitching.take(burst(left, 40, range(140, 170)))
    stitching.take(End(left, 60, is_eos=False, has_spilled=False))
    stitching.take(burst(right, 60, range(160, 165)))
    assert ids(stitching) == list(range(100, 165))
    assert [token.index for token in stitching.tokens] == list(range(65))
    assert stitching.facts()["joined"] == 1 and stitching.num_pieces == 2


def test_a_piece_that_joins_before_its_turn(recording, stitching):
    cut_at(recording, 30, 60, 90)
    first, second, third, fourth = recording.runs
    stitching.take(burst(second, 30, range(130, 170)))
    recording.join(second)
    stitching.take(Join(second, third, second.piece.end))
    stitching.take(burst(third, 60, range(5)))  # it was on its way
    stitching.take(burst(second, 70, range(170, 200)))
    stitching.take(End(second, 90, is_eos=False, has_spilled=False))
    stitching.take(burst(fourth, 90, range(190, 195)))
    assert not stitching.tokens
    stitching.take(burst(first, 0, range(100, 140)))
    stitching.take(End(first, 30, is_eos=False, has_spilled=False))
    assert ids(stitching) == list(range(100, 195))


def test_blanks_stand_for_what_the_end_of_text_leaves(model, recording, stitching):
    cut_at(recording, 30)
    left, right = recording.runs
    stitching.take(burst(left, 0, range(100, 110)))
    stitching.take(End(left, 30, is_eos=True, has_spilled=False))
    stitching.take(burst(right, 30, range(130, 135)))
    stitching.take(End(right, None, is_eos=False, has_spilled=False))
    blank = model.manifest.tokens.streaming_pad
    assert ids(stitching) == [*range(100, 110), *[blank] * 20, *range(130, 135)]
    assert stitching.is_complete and stitching.num_eos == 1


def test_a_piece_is_not_cut_where_its_decoder_is(recording):
    """A join has let it go on into what may still be cut."""
    cut_at(recording, 30)
    left, right = recording.runs
    assert recording.join(left) is right and left.piece.end is None
    left.place = recording.first + 100
    recording._cuts.extend(Cut(token, 0, 0) for token in (70, 90, 300))
    recording.append(np.zeros((400, 96), np.float32))
    assert [run.piece.begin for run in recording.runs] == [0, 300]
    assert left.piece.end == 300 >= 100 + 2 * BURST
    assert recording.runs[-1].piece == replace(left.piece, begin=300, end=None)
