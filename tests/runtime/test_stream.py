"""Ladder, rung 4.

Streams are offline transcription, whatever the chunks, and both are transformers' generate.
"""

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import toy
from support.commands import LONG_CLIP
from transformers import VoxtralRealtimeFeatureExtractor

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import ArtifactError, AudioError
from voxtral_onnx.memory import resident_memory
from voxtral_onnx.runtime import guard
from voxtral_onnx.runtime import transcriber as transcribing
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.guard import blank_penalties
from voxtral_onnx.runtime.stream import Stream
from voxtral_onnx.runtime.tokens import SampledToken
from voxtral_onnx.runtime.writer import TokenWriter

SPEECH = soundfile.read(LONG_CLIP, dtype="float32")[0]
SECONDS = 9.0  # both windows roll many times, the caches shift 3 and 20 times


@pytest.fixture(scope="module")
def transcriber(toy_artifact):
    with Transcriber(toy_artifact, precision="fp32") as transcriber:
        yield transcriber


@pytest.fixture(scope="module")
def whole(transcriber):
    """Token ids of the babble as a file."""
    return list(transcriber.transcribe(toy.babble(SECONDS)).token_ids)


def input_features(samples, delay):
    """Mel of the padded audio, by transformers' feature extractor."""
    padding = -len(samples) % 1280 + 1280 * (delay + 11)
    padded = np.concatenate(
        (np.zeros(32 * 1280, np.float32), samples, np.zeros(padding, np.float32))
    )
    return VoxtralRealtimeFeatureExtractor()(
        padded, sampling_rate=16000, return_tensors="pt"
    ).input_features


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")  # of the oracle
@pytest.mark.parametrize("delay", [1, 6, 30])
@pytest.mark.parametrize("streaming", [False, True])
def test_tokens_equal_transformers_generate(toy_model, toy_artifact, delay, streaming):
    samples = toy.babble(SECONDS, seed=delay)
    mel = input_features(samples, delay)
    length = 33 + delay
    prompt = torch.tensor([[toy.BOS] + [toy.PAD] * (32 + delay)])
    features = mel
    if streaming:
        features = (
            mel[..., start:stop]
            for start, stop in [(0, 8 * length)]
            + [(8 * t, 8 * t + 8) for t in range(length, mel.shape[2] // 8)]
        )
    expected = toy_model.generate(
        input_ids=prompt,
        input_features=features,
        num_delay_tokens=delay,
        do_sample=False,
        max_new_tokens=10_000,
    )[0, length:].tolist()
    with Transcriber(toy_artifact, precision="fp32", delay_ms=80 * delay) as transcriber:
        tokens = list(transcriber.transcribe(samples).token_ids)
    assert len(set(tokens)) > 20, "the model must not repeat itself"
    assert tokens == expected[: len(tokens)] and len(expected) - len(tokens) <= int(streaming)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 20_000)), min_size=1, max_size=40))
def test_any_chunking_gives_the_same_tokens(transcriber, whole, sizes):
    samples, stream, tokens, at = toy.babble(SECONDS), transcriber.stream(), [], 0
    for size in sizes:
        tokens += stream.feed(samples[at : at + size])
        at += size
    tokens += stream.feed(samples[at:])
    tokens += stream.finish()
    assert [token.token_id for token in tokens] == whole


def test_four_bits_stream_like_they_transcribe(toy_artifact):
    samples = toy.babble(SECONDS)
    with Transcriber(toy_artifact, precision="q4") as transcriber:
        expected = list(transcriber.transcribe(samples).token_ids)
        stream = transcriber.stream()
        tokens = [
            token
            for part in np.split(samples, range(1280, len(samples), 1280))
            for token in stream.feed(part)
        ]
        tokens += stream.finish()
    assert [token.token_id for token in tokens] == expected


def test_tokens_come_when_their_audio_is_there(transcriber):
    """The first token needs the delay, one token and the look-ahead.

    Each next one 80 ms more (spec 5.3).
    """
    samples, stream = toy.babble(3.0), transcriber.stream()
    first = 7 * 1280 + 40
    assert stream.feed(samples[: first - 1]) == []
    assert [token.index for token in stream.feed(samples[first - 1 : first])] == [0]
    assert stream.feed(samples[first : first + 1279]) == []
    assert [token.index for token in stream.feed(samples[first + 1279 : first + 1280])] == [1]


@pytest.mark.parametrize("num_samples", [0, 1, 1279, 1280, 1281, 16000])
def test_number_of_tokens(transcriber, num_samples):
    """N - L = ceil(n / 1280) + 10 (spec 3.3, 4.3)."""
    stream = transcriber.stream()
    tokens = stream.feed(np.zeros(num_samples, np.float32)) + stream.finish()
    assert len(tokens) == -(-num_samples // 1280) + 10
    positions = 32 + -(-num_samples // 1280) + 6 + 11 - 1
    assert stream.decoder_cache.position == positions, "no step passes the audio"
    assert stream.encoder_cache.position == 4 * positions
    assert [token.end for token in tokens] == [
        0.08 * (i + 1) for i in range(len(tokens))
    ] or np.allclose([token.end for token in tokens], 0.08 * np.arange(1, len(tokens) + 1))


def test_memory_of_a_stream_does_not_grow(transcriber):
    """The short twin of bench/soak.py, whose tokens the tests of chunks compare."""
    stream = transcriber.stream()
    sizes, memory = set(), []
    for second in range(60):
        stream.feed(toy.babble(1.0, seed=second))
        sizes.add(len(stream.samples) // 2560)
        memory.append(resident_memory())
    assert stream.encoder_cache.position > 10 * stream.encoder_cache.spec.capacity
    assert stream.decoder_cache.position > 5 * stream.decoder_cache.spec.capacity
    assert len(sizes) == 1
    assert memory[-1] - memory[20] < 2 << 20, (
        "a megabyte of the allocators; the caches alone would be more"
    )


def test_end_of_text_ends_a_file_but_not_a_stream(transcriber, monkeypatch):
    samples = toy.babble(3.0)
    tokens = list(transcriber.transcribe(samples).token_ids)
    seventh = next(i for i in range(5, len(tokens)) if tokens[i] not in tokens[:i])
    monkeypatch.setattr(TokenWriter, "__init__", _with_eos(tokens[seventh]))
    assert list(transcriber.transcribe(samples).token_ids) == tokens[: seventh + 1]
    stream = transcriber.stream()
    assert [token.token_id for token in stream.feed(samples) + stream.finish()] == tokens


def _with_eos(token_id, init=TokenWriter.__init__):
    """Writers for which another token means the end of the text."""

    def wrapped(self, *arguments, **options):
        init(self, *arguments, **options)
        self.ids = replace(self.ids, eos=token_id)

    return wrapped


def test_a_smaller_context_is_the_same_for_every_chunking(toy_artifact, whole):
    samples = toy.babble(SECONDS)
    with Transcriber(toy_artifact, precision="fp32", context=64) as transcriber:
        # 64 positions are more than the window
        assert list(transcriber.transcribe(samples).token_ids) == whole


@pytest.mark.parametrize(
    "samples",
    [
        np.array([np.nan]),
        np.array([0.0, np.inf]),
        np.zeros((2, 3)),
        np.zeros(4, np.int16),
        np.array("x"),
    ],
)
def test_bad_samples_are_refused_and_change_nothing(transcriber, samples):
    good = toy.babble(1.0)
    stream = transcriber.stream()
    tokens = stream.feed(good)
    with pytest.raises(AudioError, match="samples"):
        stream.feed(samples)
    tokens += stream.finish()
    other = transcriber.stream()
    assert tokens == other.feed(good) + other.finish()
    with pytest.raises(AudioError, match="finished"):
        stream.feed(good)


@pytest.mark.parametrize("seconds", [0.0, 0.3, 2.0, 6.0])
def test_a_saved_stream_goes_on(transcriber, whole, tmp_path, seconds):
    samples, cut = toy.babble(SECONDS), int(16000 * seconds) + 7
    stream = transcriber.stream()
    tokens = stream.feed(samples[:cut])
    stream.save(tmp_path / "stream.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["stream.npz"]
    resumed = transcriber.load_stream(tmp_path / "stream.npz")
    tokens += resumed.feed(samples[cut:]) + resumed.finish()
    assert [token.token_id for token in tokens] == whole
    assert [token.index for token in tokens] == list(range(len(whole)))
    assert "".join(token.text for token in tokens) == "".join(
        t.text for t in transcriber_tokens(transcriber, samples)
    )


def transcriber_tokens(transcriber, samples):
    stream = transcriber.stream()
    return stream.feed(samples) + stream.finish()


SAVES = """
import sys
import numpy as np
from voxtral_onnx import Transcriber
with Transcriber(sys.argv[1], precision="fp32") as transcriber:
    stream = transcriber.stream()
    for block in np.array_split(np.load(sys.argv[2]), 200):
        stream.feed(block)
        stream.save(sys.argv[3])
        print(stream.num_samples, flush=True)
"""


@pytest.mark.parametrize("saves", [1, 60])
def test_a_killed_process_goes_on_from_its_file(transcriber, toy_artifact, whole, tmp_path, saves):
    """Killed between or in the middle of saves.

    The file is always one whole state, of any of them.
    """
    samples, saved = toy.babble(SECONDS), tmp_path / "stream.npz"
    np.save(tmp_path / "samples.npy", samples)
    command = [sys.executable, "-c", SAVES, toy_artifact, tmp_path / "samples.npy", saved]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        reached = [int(process.stdout.readline()) for _ in range(saves)][-1]
        process.kill()
    assert process.returncode == -signal.SIGKILL
    stream = transcriber.load_stream(saved)
    assert reached <= stream.num_samples <= len(samples)
    index = stream.num_generated
    tokens = stream.feed(samples[stream.num_samples :]) + stream.finish()
    assert [token.token_id for token in tokens] == whole[index:]
    assert [token.index for token in tokens] == list(range(index, len(whole)))


def test_a_finished_stream_stays_finished(transcriber, tmp_path):
    stream = transcriber.stream()
    stream.finish()
    stream.save(tmp_path / "stream.npz")
    with pytest.raises(AudioError, match="finished"):
        transcriber.load_stream(tmp_path / "stream.npz").feed(np.zeros(10, np.float32))


def test_a_stream_of_another_setting_is_refused(transcriber, toy_artifact, tmp_path):
    stream = transcriber.stream()
    stream.feed(toy.babble(1.0))
    stream.save(tmp_path / "stream.npz")
    (tmp_path / "text").write_text("not a stream")
    (tmp_path / "cut").write_bytes((tmp_path / "stream.npz").read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match="another artifact, precision, delay or context"):
        transcriber.load_stream(tmp_path / "stream.npz", delay_ms=80)
    with (
        Transcriber(toy_artifact, precision="q4") as other,
        pytest.raises(ArtifactError, match="another artifact, precision"),
    ):
        other.load_stream(tmp_path / "stream.npz")
    for name in ("text", "cut", "absent"):
        with pytest.raises(ArtifactError, match=f"{name}: not a saved stream"):
            transcriber.load_stream(tmp_path / name)


def test_async_iteration_gives_tokens_while_a_thread_feeds(transcriber, whole):
    samples = toy.babble(SECONDS)

    async def listen():
        stream = transcriber.stream()
        tokens = aiter(stream)

        def feed():
            for part in np.split(samples, range(8000, len(samples), 8000)):
                stream.feed(part)
            stream.finish()

        feeding = asyncio.create_task(asyncio.to_thread(feed))
        token_ids = [token.token_id async for token in tokens]
        await feeding
        assert [token async for token in stream] == [], "a finished stream has no more"
        return token_ids

    assert asyncio.run(listen()) == whole


@pytest.mark.parametrize("delay", [1, 6, 30])
def test_a_warm_start_is_the_silence_before_the_audio(transcriber, delay):
    """A warm start is bit for bit a stream that ran the silence itself.

    The streams that began there before leave it unharmed.
    """
    samples = toy.babble(3.0, seed=delay)
    cold = Stream(transcriber.model, replace(transcriber.options, num_delay_tokens=delay))
    tokens = cold.feed(samples[:0]) + cold.feed(samples) + cold.finish()
    transcriber.stream(delay_ms=80 * delay).feed(samples)
    warm = transcriber.stream(delay_ms=80 * delay)
    assert warm.feed(samples) + warm.finish() == tokens
    silent = warm.rules.left_pad_tokens - 1  # the last encodes the first samples of the audio
    assert warm.timings.steps == cold.timings.steps - silent


@pytest.mark.parametrize(
    ("blanks", "penalty"), [(0, 0), (200, 0), (201, 0.5), (213, 6.5), (214, 7), (10_000, 7)]
)
def test_penalty_grows_with_the_blanks(transcriber, blanks, penalty):
    writer = transcriber.stream().writer
    writer.blanks = blanks
    assert writer.blank_penalty() == penalty
    assert blank_penalties(np.array([0, blanks])).tolist() == [0, penalty]
    writer.options = replace(writer.options, blank_guard=False)
    assert writer.blank_penalty() == 0


def test_blank_guard_breaks_a_rut_and_reports_it(tiny_artifact, monkeypatch, tmp_path):
    """Silence as the rut: a penalty without bound forces a word after every fifth blank."""
    monkeypatch.setattr(guard, "BLANKS_UNPENALISED", 4)
    monkeypatch.setattr(guard, "BLANK_PENALTY_STEP", 1e4)
    monkeypatch.setattr(guard, "MAX_BLANK_PENALTY", 1e4)
    silence = np.zeros(2 * 16000, np.float32)
    with Transcriber(tiny_artifact, precision="fp32", blank_guard=False) as transcriber:
        blank = transcriber.manifest.tokens.streaming_pad
        assert set(transcriber.transcribe(silence).token_ids) == {blank}
    with Transcriber(tiny_artifact, precision="fp32") as transcriber:
        stream = transcriber.stream()
        tokens = stream.feed(silence)
        stream.save(tmp_path / "stream.npz")
        resumed = transcriber.load_stream(tmp_path / "stream.npz")
        assert resumed.feed(silence) == stream.feed(silence), "the count of blanks is saved"
    forced = [token for token in tokens if token.token_id != blank and token.blank_margin > 0]
    assert forced and [override.index for override in stream.overrides[: len(forced)]] == [
        t.index for t in forced
    ]
    assert all(
        override.blanks == 5 and override.blank_margin > 0
        for override in stream.overrides[: len(forced)]
    )
    assert [override.blank_margin for override in stream.overrides[: len(forced)]] == [
        t.blank_margin for t in forced
    ]


@pytest.mark.parametrize("drafts", [1, 3, 7])
def test_draft_tokens_change_no_token(tiny_artifact, monkeypatch, stream_of, drafts):
    """Speech with pauses.

    Right and wrong draft tokens, across shifts of the cache and from window to window.
    """
    samples = np.concatenate([SPEECH, np.zeros(20 * 16000, np.float32), SPEECH])
    with Transcriber(tiny_artifact, precision="fp32") as transcriber:
        plain = transcriber.stream()
        expected = plain.feed(samples) + plain.finish()
        monkeypatch.setitem(transcribing.NUM_DRAFT_TOKENS, "cpu", drafts)
        transcript = transcriber.transcribe(samples)
        assert list(transcript.token_ids) == [token.token_id for token in expected]
        assert transcript.writer.timings.steps == plain.timings.steps
        assert stream_of(transcript).decoder_cache.position == plain.decoder_cache.position
        calls = []
        monkeypatch.setattr(Decoder, "step", _counted(Decoder.step, calls))
        again = transcriber.transcribe(samples)
        assert again.token_ids == transcript.token_ids
    assert len(calls) < len(expected) * (0.75 if drafts == 1 else 0.6), "drafts save calls"
    assert sum(calls) > len(expected), "some drafts were wrong"


def _counted(step, calls):
    def wrapped(self, cache, token_ids, *arguments):
        calls.append(len(token_ids))
        return step(self, cache, token_ids, *arguments)

    return wrapped


def test_close_decisions_are_made_again_alone(tiny_artifact, monkeypatch, stream_of):
    """With every margin called close, each position is run alone after all.

    It is run into the same cache rows.
    """
    monkeypatch.setattr(SampledToken, "is_close", lambda self: True)
    with Transcriber(tiny_artifact, precision="q4") as transcriber:
        speculative = transcriber.transcribe(SPEECH)
        assert speculative.token_ids
        monkeypatch.setitem(transcribing.NUM_DRAFT_TOKENS, "cpu", 0)
        plain = transcriber.transcribe(SPEECH)
        assert speculative.token_ids == plain.token_ids
        caches = [stream_of(each).decoder_cache.save() for each in (speculative, plain)]
        for mine, theirs in zip(*caches, strict=True):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("margin", "probability", "is_close"),
    [
        (0.04, 0.5, True),
        (-0.04, 0.9, True),
        (0.06, 0.2, False),
        (-3, 0.52, False),
        (-3, 0.5, True),
        (-3, 0.3, True),
    ],
)
def test_what_is_close(margin, probability, is_close):
    assert SampledToken(7, float(np.log(probability)), margin).is_close() == is_close
