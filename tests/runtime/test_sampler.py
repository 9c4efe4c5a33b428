"""The token sampled from logits is the greedy one.

Its alternatives are those of a plain run of the graph.
"""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import CLIP, TEXT

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import UsageError
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.runtime.decision import greedy_decision
from voxtral_onnx.runtime.sampler import TokenSampler
from voxtral_onnx.runtime.text.tokenizer import Tokenizer

BLANK, SIZE = 3, 9
TOKENS = Tokens(bos=1, eos=2, streaming_pad=BLANK, streaming_word=4, first_text=5)
LOGPROB_ATOL = 2e-6  # float32 sums in another order
PLAIN_ATOL = 5e-4  # all positions in one call run other kernels than one by one
HALVES = st.integers(-6, 6).map(lambda count: count / 2)  # many of them are equal


@pytest.fixture(scope="module")
def tokenizer(tiny_artifact):
    return Tokenizer(tiny_artifact / "tekken.json", TOKENS)


@settings(max_examples=100, deadline=None)
@given(st.lists(HALVES, min_size=SIZE, max_size=SIZE), st.sampled_from([0.0, 0.5, 1.0, 7.0]))
def test_without_hotwords_the_decision_is_greedy(tokenizer, values, penalty):
    logits = np.array(values, np.float32)
    sampled = TokenSampler(TOKENS, tokenizer, 2).sample(logits, penalty)
    expected = greedy_decision(logits, BLANK, penalty)
    assert (sampled.token_id, sampled.blank_margin, sampled.logprob, sampled.lead) == (
        expected.token_id,
        expected.blank_margin,
        expected.logprob,
        expected.lead,
    )
    assert not sampled.is_swayed


@settings(max_examples=200, deadline=None)
@given(st.lists(HALVES, min_size=SIZE, max_size=SIZE), st.integers(1, SIZE))
def test_alternatives_are_the_best_tokens_in_order(tokenizer, values, count):
    found = (
        TokenSampler(TOKENS, tokenizer, count)
        .sample(np.array(values, np.float32), 0.0)
        .alternatives
    )
    expected = sorted(range(SIZE), key=lambda i: (-values[i], i))[:count]
    assert [one.token_id for one in found] == expected
    logprobs = torch.log_softmax(torch.tensor(values), 0)[expected].tolist()
    assert [one.logprob for one in found] == pytest.approx(logprobs, abs=LOGPROB_ATOL)


@pytest.mark.parametrize("precision", ["fp32", "q4f16"])
def test_asking_for_alternatives_changes_no_token(precision, tiny_artifact):
    samples = np.concatenate(
        (soundfile.read(CLIP, dtype="float32")[0], np.zeros(17 * 16000, np.float32))
    )
    with Transcriber(tiny_artifact, "cpu", precision=precision) as transcriber:
        plain, expected = [], []
        transcriber.transcribe(samples, on_token=plain.append).token_ids  # noqa: B018, which decodes
        transcriber.options = replace(transcriber.options, alternatives=3)
        transcriber.transcribe(samples, on_token=expected.append).token_ids  # noqa: B018
    assert [token.token_id for token in plain] == [token.token_id for token in expected]
    assert all(token.alternatives == () for token in plain)
    for with_them, without in zip(expected, plain, strict=True):
        # ORT sums as many in another order
        assert with_them.logprob == pytest.approx(without.logprob, abs=1e-4)
        assert with_them.alternatives[0].token_id == with_them.token_id


def test_alternatives_equal_a_plain_run_of_the_graph(tiny_artifact):
    """One call over the prompt and all tokens, through onnxruntime alone.

    Seq = total is attention without a past.
    """
    with Transcriber(tiny_artifact, "cpu", precision="fp32", alternatives=5) as transcriber:
        manifest, tokens = transcriber.manifest, []
        transcriber.transcribe(CLIP, on_token=tokens.append).token_ids  # noqa: B018
        delay, rules = transcriber.num_delay_tokens, manifest.streaming
        audio = soundfile.read(CLIP, dtype="float32")[0]
        positions = 32 + -(-len(audio) // 1280) + delay + 10
        padded = np.zeros(
            positions * 1280 + rules.look_back_samples + rules.look_ahead_samples, np.float32
        )
        padded[rules.look_back_samples + 32 * 1280 :][: len(audio)] = audio
        encoder, cache, embeds = (
            transcriber.model.encoder,
            transcriber.model.encoder.new_cache(),
            [],
        )
        # Divides the encoder's buffer, so that no call crosses a shift
        for start in range(0, positions, 2):
            stop = min(start + 2, positions)
            embeds.append(encoder.encode(cache, padded[start * 1280 : stop * 1280 + 240]))
    graph = manifest.precisions["fp32"].decoder
    stack, prompt = manifest.config.decoder, [1] + [32] * (32 + delay)
    ids = [*prompt, *(token.token_id for token in tokens)][:positions]
    angles = np.arange(positions)[:, None] * stack.rope_theta ** (
        -np.arange(0, stack.head_dim, 2) / stack.head_dim
    )
    feeds = {
        "input_ids": np.array([ids], np.int64),
        "audio_embeds": np.concatenate(embeds)[None],
        "num_delay_tokens": np.array([delay], np.int64),
        "cos": np.cos(angles)[None].astype(np.float32),
        "sin": np.sin(angles)[None].astype(np.float32),
        "seqlens_k": np.array([positions - 1], np.int32),
        "total_sequence_length": np.array(positions, np.int32),
        "blank_penalty": np.zeros((1, positions), np.float32),
    }
    empty = np.zeros((1, stack.num_key_value_heads, positions, stack.head_dim), np.float32)
    feeds |= {spec.name: empty for spec in graph.inputs if spec.name.startswith("past_key_values.")}
    session = onnxruntime.InferenceSession(
        tiny_artifact / graph.path, providers=["CPUExecutionProvider"]
    )
    logits = torch.from_numpy(np.asarray(session.run(["logits"], feeds)[0])[0, len(prompt) - 1 :])
    logprobs, best = torch.log_softmax(logits, -1).topk(5)
    assert len(tokens) == len(best) > 30
    for token, values, token_ids in zip(tokens, logprobs.tolist(), best.tolist(), strict=True):
        assert [one.logprob for one in token.alternatives] == pytest.approx(values, abs=PLAIN_ATOL)
        if min(-np.diff(values)) > PLAIN_ATOL:
            assert [one.token_id for one in token.alternatives] == token_ids


def test_alternatives_in_json(run, tiny_artifact):
    result = run("transcribe", "-m", tiny_artifact, "--json", "--alternatives", 3, CLIP)
    values = json.loads(result.out)
    assert values["text"] == TEXT
    for segment in values["segments"]:
        [best, *others] = segment["alternatives"][0]
        assert best["text"] == segment["text"] and len(others) == 2
        assert best["logprob"] > others[0]["logprob"] >= others[1]["logprob"]


def test_alternatives_of_live_speech(process, tiny_artifact):
    samples = soundfile.read(CLIP, dtype="int16")[0].tobytes()
    command = ("listen", "-m", tiny_artifact, "--stdin", "--stream-json", "--alternatives", 2)
    events = [json.loads(line) for line in process(*command, input=samples).out.splitlines()]
    groups = [event for event in events if event["type"] == "group"]
    assert groups and all(len(event["alternatives"][0]) == 2 for event in groups)


@pytest.mark.parametrize("count", [-1, 11])
def test_number_of_alternatives(count, run, tiny_artifact):
    run("transcribe", "-m", tiny_artifact, "--json", "--alternatives", count, CLIP).assert_refused(
        2, f"alternatives: expected 1 to 10, got {count}"
    )
    with pytest.raises(UsageError):
        Transcriber(tiny_artifact, alternatives=count)


def test_alternatives_of_plain_text(run, tiny_artifact):
    result = run("transcribe", "-m", tiny_artifact, "--alternatives", 3, CLIP)
    result.assert_refused(2, "--alternatives are written as JSON: add --json")


def test_alternatives_and_hotwords_of_files_together(tiny_artifact):
    clips = [CLIP, CLIP.with_name("time-flite.wav"), CLIP.with_name("digits-espeak.wav")]
    options = {
        "precision": "fp32",
        "alternatives": 2,
        "hotwords": ["bedroom"],
        "hotword_bias": 18.0,
    }
    with Transcriber(tiny_artifact, "cpu", **options) as transcriber:
        expected = {str(clip): transcriber.transcribe(clip) for clip in clips}
        shown = {name: transcript.segments for name, transcript in expected.items()}
    assert [len(segment.alternatives[0]) for segment in shown[str(CLIP)]] == [2] * 7
    with Transcriber(tiny_artifact, "cpu", batch_size=3, **options) as transcriber:
        for transcript in transcriber.transcribe_many(clips):
            alone = expected[transcript.source.name]
            assert transcript.token_ids == alone.token_ids
            assert (
                transcript.info["hotwords"]
                == alone.info["hotwords"]
                == (transcript.source.name == str(CLIP))
            )
            for found, segment in zip(
                transcript.segments, shown[transcript.source.name], strict=True
            ):
                for one, other in zip(found.alternatives, segment.alternatives, strict=True):
                    assert [a.token_id for a in one] == [a.token_id for a in other]
                    assert [a.logprob for a in one] == pytest.approx(
                        [a.logprob for a in other], abs=PLAIN_ATOL
                    )
