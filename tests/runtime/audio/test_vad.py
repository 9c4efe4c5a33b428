"""The filter leaves out words without speech and nothing else.

Against brute force, on tiny, and with a model.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.commands import CLIP, SAMPLES, TEXT

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.vad import Energy, Silero, SpeechFilter, detectors
from voxtral_onnx.runtime.live.capture import Capture
from voxtral_onnx.runtime.live.session import StreamSession
from voxtral_onnx.runtime.tokens import Token

RATE = 16000
SPEECH = [
    soundfile.read(SAMPLES / name, dtype="float32")[0]
    for name in ("command-hibari.wav", "number-flite.wav", "person-digits.wav", "digits-espeak.wav")
]
BLANK, WORD = 32, 33


class Scripted:
    """Speech where a script has it."""

    frame, threshold, neg_threshold = 320, 1.0, 1.0

    def __init__(self, frames):
        self.frames = iter(frames)

    def score(self, samples):
        assert samples.shape == (320,)
        return float(next(self.frames))


@pytest.fixture(scope="module")
def manifest(tiny_artifact):
    return Manifest.read(tiny_artifact)


def token(index, token_id, text=""):
    return Token(index, token_id, text, (index + 1) * 0.08, -0.1, 1.0)


@settings(max_examples=60, deadline=None)
@given(
    speech=st.lists(st.tuples(st.booleans(), st.integers(1, 80)), max_size=8),
    words=st.lists(st.integers(1, 30), max_size=8),
    delay=st.integers(1, 30),
    chunk=st.integers(1, 4000),
)
# Pushed already, but not always in time
@example(speech=[(False, 93), (True, 5)], words=[20], delay=1, chunk=4000)
def test_a_group_passes_where_speech_is_in_its_reach(manifest, speech, words, delay, chunk):
    """Against brute force, however the audio is cut and how far it is ahead of the tokens."""
    frames = [is_speech for is_speech, length in speech for _ in range(length)] + [False] * 20
    groups, index = [], 0
    for gap in words:
        index += gap + 1
        groups.append(index)
    tokens = [
        token(i, WORD if i in groups else 1000 + i if i - 1 in groups else BLANK)
        for i in range(index + 3)
    ]
    samples = np.zeros(320 * len(frames), np.float32)
    gate = SpeechFilter(Scripted(frames), manifest, delay)
    at = 0
    found = []
    for one in tokens:  # with no more audio than they need, or up to a chunk more
        needed = min(len(samples), (one.index + 1 + delay) * 1280 + 40)
        while at < needed:
            gate.push(samples[at : at + chunk])
            at += chunk
        found += gate.filter(iter([one]))
    reach = min(int(0.24 * RATE), delay * 1280)
    expected = []
    for one in groups:
        end = (one + 1) * 1280
        near = range(
            max(0, -(-(end - int(1.2 * RATE) + 1) // 320) - 1), max(0, (end + reach) // 320)
        )
        expected.append(any(frames[i] for i in near if i < len(frames)))
    assert [found[one].token_id == WORD for one in groups] == expected
    assert [found[one + 1].token_id != BLANK for one in groups] == expected
    assert gate.left_out == expected.count(False)
    kept = {
        i for one, passes in zip(groups, expected, strict=True) if passes for i in (one, one + 1)
    }
    assert all(
        a == b for a, b in zip(found, tokens, strict=True) if a.index in kept or b.token_id == BLANK
    )


def test_seconds_without_speech(manifest):
    """Half a second of speech at second 2 of 5, with pre-roll 0.24 s and hang-over 0.4 s."""
    gate = SpeechFilter(Scripted([100 <= i < 125 for i in range(250)]), manifest, 6)
    gate.push(np.zeros(5 * RATE + 100, np.float32))
    assert (gate.seconds, gate.quiet_seconds) == (5.0, pytest.approx(5 - 0.5 - 0.24 - 0.4))


def is_open(samples):
    """Frames that the loudness of samples counts as speech for."""
    detector, opened, found = Energy(RATE), False, []
    for frame in samples[: len(samples) // 320 * 320].reshape(-1, 320).astype(np.float32):
        opened = detector.score(frame) >= (detector.neg_threshold if opened else detector.threshold)
        found.append(opened)
    return np.array(found)


@pytest.mark.parametrize("level", [3e-4, 1e-3, 1e-2, 0.1])
def test_steady_noise_is_speech_until_it_is_known(level):
    found = is_open(np.random.default_rng(0).normal(0, level, 60 * RATE))
    assert found[: 5 * 50].all(), "a clip may begin with speech"
    assert not found[8 * 50 :].any()


def test_what_cannot_be_heard_is_no_speech():
    assert not is_open(np.zeros(10 * RATE)).any()
    assert not is_open(np.random.default_rng(0).normal(0, 2**-15, 10 * RATE)).any()


@pytest.mark.parametrize("noise", [0, 1e-4, 1e-3, 3e-3])
def test_speech_in_noise_is_found(noise):
    """Frames within 20 dB of a clip's loudest, after noise and after another clip.

    All but a few of them must be found.
    """
    rng, pause = np.random.default_rng(0), np.zeros(9 * RATE)
    samples = np.concatenate([pause, SPEECH[1], pause, SPEECH[2], pause])
    found = is_open(samples + rng.normal(0, noise, len(samples)))
    at = 2 * len(pause) + len(SPEECH[1])
    frames = SPEECH[2][: len(SPEECH[2]) // 320 * 320].reshape(-1, 320)
    loud = np.flatnonzero(np.square(frames).mean(1) > np.square(frames).mean(1).max() / 100)
    assert found[-(-at // 320) + loud].mean() > 0.97
    assert found[450 + len(SPEECH[1]) // 320 + 100 : at // 320 - 2].mean() < 0.1


@pytest.mark.parametrize("noise", [0.0, 1e-2])
def test_words_in_speech_are_those_without_a_filter(tiny_artifact, noise):
    """Whatever stands between the clips; tokens outside the groups left out are untouched."""
    rng = np.random.default_rng(int(1e4 * noise))
    pauses = [np.zeros(int(rng.uniform(0.5, 9) * RATE), np.float32) for _ in range(5)]
    samples = np.concatenate(
        [pauses[0], *[part for pair in zip(SPEECH, pauses[1:], strict=True) for part in pair]]
    )
    samples += rng.normal(0, noise, len(samples)).astype(np.float32)
    found = {}
    for vad in (None, "energy"):
        with Transcriber(tiny_artifact, precision="q4", vad=vad) as transcriber:
            found[vad] = transcriber.transcribe(samples)
            found[vad, "segments"] = [(segment.text, segment.end) for segment in found[vad]]
    spans, at = [], 0
    for pause, clip in zip(pauses, SPEECH, strict=False):
        spans.append(((at + len(pause)) / RATE, (at + len(pause) + len(clip)) / RATE + 0.3))
        at += len(pause) + len(clip)
    inside = [
        s for s in found[None, "segments"] if any(start < s[1] <= end for start, end in spans)
    ]
    assert len(inside) > 15
    assert [s for s in found["energy", "segments"] if s in inside] == inside
    pairs = list(zip(found["energy"].token_ids, found[None].token_ids, strict=True))
    assert all(a in (b, BLANK) for a, b in pairs)
    gate = found["energy"].speech_filter
    assert 10 < gate.quiet_seconds < gate.seconds - 5


def test_what_has_no_speech_is_left_out_everywhere(tiny_artifact, monkeypatch):
    """The clip itself, to a filter that hears no speech: in a file, in a live stream, and said."""
    monkeypatch.setattr(Energy, "threshold", 1e9)
    clip = soundfile.read(CLIP, dtype="float32")[0]
    with Transcriber(tiny_artifact, precision="q4", vad="energy") as transcriber:
        transcript = transcriber.transcribe(clip)
        assert (transcript.text, transcript.segments, set(transcript.token_ids)) == (
            "",
            [],
            {BLANK},
        )
        assert transcript.info["vad"]["left_out"] == len(TEXT.split())
        assert transcript.speech_filter and transcript.speech_filter.left_out == len(TEXT.split())
        gate, events = transcriber.speech_filter(), []
        assert gate
        session = StreamSession(transcriber.stream(), events.append, gate)
        session.run(Capture(iter(np.array_split(clip, 20))))
        assert not any(
            getattr(event, "token_ids", ()) or isinstance(event, Token) for event in events
        )
        assert gate.left_out == len(TEXT.split())


def test_files_that_advance_together_are_filtered_alike(tiny_artifact):
    pause = np.zeros(4 * RATE, np.float32)
    clips = [np.concatenate([pause, clip, pause]) for clip in SPEECH[:3]]
    with Transcriber(tiny_artifact, precision="q4", vad="energy") as transcriber:
        alone = [transcriber.transcribe(clip) for clip in clips]
        expected = {
            t.duration: (t.token_ids, t.speech_filter and t.speech_filter.summary())
            for t in alone
            if t.token_ids
        }
    with Transcriber(tiny_artifact, precision="q4", vad="energy", batch_size=2) as transcriber:
        together = transcriber.transcribe_many(clips)
        assert {
            t.duration: (t.token_ids, t.speech_filter and t.speech_filter.summary())
            for t in together
            if t.token_ids
        } == expected


@pytest.mark.parametrize(
    "arguments", [["--vad", CLIP], [CLIP, "--vad"], ["--vad_filter", "True", CLIP]]
)
def test_command_line(run, tiny_artifact, arguments):
    result = run("transcribe", "-m", tiny_artifact, *arguments)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert "vad: no speech in 0." in result.err and "0 segments left out there" in result.err


@pytest.fixture(scope="module")
def silero(tmp_path_factory):
    """A model of Silero's shape.

    The probability is the loudest of 576 samples, and the state counts calls.
    """
    path = tmp_path_factory.mktemp("silero") / "vad.onnx"
    nodes = [
        helper.make_node("Abs", ["input"], ["loud"]),
        helper.make_node("ReduceMax", ["loud", "axes"], ["output"], keepdims=1),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["rate", "sixteen"], ["one"]),
        helper.make_node("Add", ["state", "one"], ["stateN"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("sixteen", TensorProto.FLOAT, [], [16000.0]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "vad",
        [
            helper.make_tensor_value_info("input", floats, [1, 576]),
            helper.make_tensor_value_info("state", floats, [2, 1, 128]),
            helper.make_tensor_value_info("sr", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("output", floats, [1, 1]),
            helper.make_tensor_value_info("stateN", floats, [2, 1, 128]),
        ],
        constants,
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    return path


def test_silero_gets_context_and_state(silero):
    make = detectors(silero, RATE)
    detector, other = make(), make()
    assert isinstance(detector, Silero) and isinstance(other, Silero)
    samples = np.zeros((4, 512), np.float32)
    samples[1, 511] = 0.75
    assert [detector.score(frame) for frame in samples] == [0, 0.75, 0.75, 0], (
        "64 samples are scored again"
    )
    assert np.all(detector._state == 4) and np.all(other._state == 0), (
        "each stream has its own state"
    )


def test_silero_by_path(silero, run, tiny_artifact):
    result = run("transcribe", "-m", tiny_artifact, "--vad-model", silero, CLIP)
    assert result.code == 0 and "vad: no speech in" in result.err


def test_a_model_that_is_not_silero(run, tiny_artifact, tmp_path):
    mel = next((tiny_artifact / "onnx").glob("mel.onnx"))
    run("transcribe", "-m", tiny_artifact, "--vad-model", mel, CLIP).assert_refused(
        4, "expected Silero's", "got ['audio']"
    )
    absent = tmp_path / "absent.onnx"
    run("transcribe", "-m", tiny_artifact, "--vad-model", absent, CLIP).assert_refused(
        4, "absent.onnx: onnxruntime cannot"
    )
