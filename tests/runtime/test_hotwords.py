"""Words that a user expects become likelier, and nothing else does."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import CLIP, LONG_CLIP, TEXT, TEXTS

from voxtral_onnx import Transcriber
from voxtral_onnx.errors import UsageError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.hotwords import START_SHARE, Hotwords, read_hotwords
from voxtral_onnx.runtime.sampler import TokenSampler
from voxtral_onnx.runtime.text.bpe import TextEncoder
from voxtral_onnx.runtime.text.tokenizer import Tokenizer

OTHER_TEXT = "turn on the music in the bedroom"
# 8.7 logits between "bathroom" and "bedroom" in the clip, of which a first token gets half the bias
STRONG = 18.0
VOCABULARY = 5096


@pytest.fixture(scope="module")
def ids(tiny_artifact):
    return Manifest.read(tiny_artifact).tokens


@pytest.fixture(scope="module")
def tokenizer(tiny_artifact, ids):
    return Tokenizer(tiny_artifact / "tekken.json", ids)


@pytest.fixture(scope="module")
def encode(tokenizer):
    return TextEncoder(tokenizer).encode


@pytest.fixture
def transcribe(run, tiny_artifact, tmp_path):
    def transcribe(content: str | bytes, *arguments):
        file = tmp_path / "words.txt"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return run("transcribe", "-m", tiny_artifact, "--hotwords", file, *arguments)

    return transcribe


def logits_of(**values: float) -> np.ndarray:
    logits = np.full(VOCABULARY, -30, np.float32)
    for token_id, value in values.items():
        logits[int(token_id.removeprefix("t"))] = value
    return logits


def test_a_word_is_begun_with_and_without_space_and_with_a_capital(tokenizer, ids, encode):
    hotwords = Hotwords(["zygote"], tokenizer, ids)
    forms = [encode(form) for form in (" zygote", "zygote", " Zygote", "Zygote")]
    assert (
        set(hotwords.starts([]))
        == set(hotwords.starts([ids.streaming_word]))
        == {form[0] for form in forms}
    )
    inside = set(hotwords.starts([1381]))
    assert inside == {i for i in hotwords.starts([]) if tokenizer.bytes_of(int(i)).startswith(b" ")}
    for form in forms:
        for length in range(1, len(form)):
            assert form[length] in hotwords.continuations([1381, 33, *form[:length]])
        assert form[-1] not in hotwords.continuations(form)
        assert not len(hotwords.continuations([*form[:-1], ids.streaming_word]))


def test_a_phrase_goes_on_behind_a_marker_and_without(tokenizer, ids, encode):
    hotwords = Hotwords(["garden  lights"], tokenizer, ids)
    first, second = encode(" garden"), encode(" lights")
    assert second[0] in hotwords.continuations(first)
    assert second[0] in hotwords.continuations([*first, ids.streaming_word])
    assert ids.streaming_word not in hotwords.continuations(first)  # the model alone ends groups
    assert second[0] not in hotwords.starts([])


def test_the_bias_of_starts_and_continuations(tokenizer, ids, encode):
    first, second = encode(" zygote")[:2]
    sampler = TokenSampler(ids, tokenizer, 0, Hotwords(["zygote"], tokenizer, ids, 4.0))
    gain = 4 * START_SHARE
    for lead, expected in ((gain - 0.1, first), (gain + 0.1, 1381)):
        sampled = sampler.sample(logits_of(t1381=5, **{f"t{first}": 5 - lead}), 0)
        assert (sampled.token_id, sampled.is_swayed) == (expected, expected == first)
    sampler.accept_token(first)
    sampler.accept_token(ids.streaming_pad)
    for lead, expected in ((3.9, second), (4.1, 1381)):
        assert (
            sampler.sample(logits_of(t1381=5, **{f"t{second}": 5 - lead}), 0).token_id == expected
        )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**30), st.floats(0, 7))
def test_hotwords_begin_only_where_there_is_text(tokenizer, ids, seed, penalty):
    """What the plain rule takes for a blank or a marker stays one.

    Logprob and margin are the plain rule's.
    """
    logits = np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)
    logits[[ids.streaming_pad, ids.streaming_word]] += np.float32(8)
    plain = TokenSampler(ids, tokenizer).sample(logits, penalty)
    swayed = TokenSampler(ids, tokenizer, 0, Hotwords(["zygote"], tokenizer, ids, 20.0)).sample(
        logits, penalty
    )
    assert swayed.blank_margin == plain.blank_margin
    if plain.token_id < ids.first_text:
        assert swayed == plain


@pytest.mark.parametrize("form", ["bedroom", "bedroom\r\nmusic\r\n"])
def test_a_strong_hotword_in_a_file(form, transcribe):
    result = transcribe(form, "--hotword-bias", STRONG, CLIP)
    assert (result.code, result.out) == (0, OTHER_TEXT + "\n")
    assert "hotwords changed 1 token" in result.err


def test_hotwords_that_are_not_said_change_nothing(transcribe):
    result = transcribe("zygote\nquarterly report", CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert "hotwords changed" not in result.err


def test_silence_stays_silent(tiny_artifact):
    with Transcriber(tiny_artifact, "cpu", hotwords=["bedroom"], hotword_bias=20) as transcriber:
        assert transcriber.transcribe(np.zeros(5 * 16000, np.float32)).text == ""


def test_a_stream_with_hotwords_in_pieces_and_saved(tiny_artifact, tmp_path):
    samples = soundfile.read(CLIP, dtype="float32")[0]
    with Transcriber(
        tiny_artifact, "cpu", hotwords=["bedroom", "bathtub"], hotword_bias=STRONG
    ) as transcriber:
        stream, tokens = transcriber.stream(), []
        for piece in np.array_split(samples, 9):
            tokens += stream.feed(piece)
            stream.save(tmp_path / "saved")
            stream = transcriber.load_stream(tmp_path / "saved")
        tokens += stream.finish()
        whole = transcriber.transcribe(samples)
        assert [token.token_id for token in tokens] == list(whole.token_ids)
        assert whole.text == OTHER_TEXT
        assert whole.info["hotwords"] == 1
        assert whole.writer.overrides == []


def test_live_with_hotwords(process, tiny_artifact, tmp_path):
    (tmp_path / "words.txt").write_text("bedroom")
    samples = soundfile.read(CLIP, dtype="int16")[0].tobytes()
    options = ("--hotwords", "words.txt", "--hotword-bias", STRONG)
    result = process("listen", "-m", tiny_artifact, "--stdin", *options, input=samples)
    assert (result.code, result.out) == (0, OTHER_TEXT + "\n")


def test_what_hotwords_changed_is_in_the_json(transcribe):
    assert json.loads(transcribe("music", "--json", CLIP).out)["info"]["hotwords"] == 0


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"", [], "words.txt: holds no words"),
        (b"\n \n", [], "words.txt: holds no words"),
        (b"caf\xe9", [], "words.txt: expected UTF-8 text"),
        (
            b"a" * 101,
            [],
            "hotwords: 'aaaaaaaaaaaaaaaaaaaa'…: expected at most 100 characters, got 101",
        ),
        (b"music\n" * 12_000, [], "words.txt: expected at most 65,536 bytes, found more"),
        (
            b"music",
            ["--hotword-bias", "0"],
            "hotword bias: expected more than 0 and at most 20 logits, got 0",
        ),
        (b"music", ["--hotword-bias", "20.5"], "at most 20 logits, got 20.5"),
        (b"music", ["--hotword-bias", "nan"], "at most 20 logits, got nan"),
    ],
)
def test_hotwords_that_are_refused(content, arguments, words, transcribe):
    transcribe(content, *arguments, CLIP).assert_refused(2, words)


def test_long_lists_from_python(tokenizer, ids):
    with pytest.raises(UsageError, match=r"expected at most 100 characters, got 100000"):
        Hotwords(["music", "a " * 49_999 + "bc"], tokenizer, ids)
    with pytest.raises(UsageError, match=r"expected at most 65,536 bytes in all, got more"):
        Hotwords([f"{i:_>90}" for i in range(1000)], tokenizer, ids)
    with pytest.raises(UsageError, match=r"expected whole characters"):
        Hotwords(["a\ud800"], tokenizer, ids)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("ab ", min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=4),
    st.text("ab ", max_size=12),
)
def test_what_continues_is_what_follows_any_beginning(tokenizer, ids, encode, words, written):
    hotwords, recent = Hotwords(words, tokenizer, ids), encode(written)
    sequences = [
        s for word in hotwords.words for s in hotwords._sequences(word, TextEncoder(tokenizer))
    ]
    expected = {
        sequence[length]
        for sequence in sequences
        for length in range(1, len(sequence))
        if list(sequence[:length]) == recent[-length:] and sequence[length] >= ids.first_text
    }
    assert set(hotwords.continuations(recent)) == expected
    assert set(hotwords.starts([])) == {sequence[0] for sequence in sequences}


def test_a_list_takes_what_its_tokens_take(tokenizer, ids):
    """Characters that no token has whole, so that every byte is a token."""
    words = [chr(0x12000 + i) + "\U00012345" * 99 for i in range(20)]
    tracemalloc.start()
    hotwords = Hotwords(words, tokenizer, ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert hotwords.longest > 300
    assert peak < 24 << 20


def test_a_hotword_file_that_is_not_there(run, tiny_artifact, tmp_path):
    command = ("transcribe", "-m", tiny_artifact, CLIP)
    run(*command, "--hotwords", tmp_path / "none").assert_refused(
        2, "none: cannot be read (No such file"
    )
    run(*command, "--hotwords", tmp_path).assert_refused(2, "cannot be read (Is a directory")
    run(*command, "--hotword-bias", 3).assert_refused(
        2, "--hotword-bias belongs to --hotwords FILE"
    )


def test_a_word_that_the_tokenizer_cannot_write(tokenizer, ids, tmp_path):
    broken = Tokenizer.__new__(Tokenizer)
    broken.__dict__.update(tokenizer.__dict__)
    broken.pieces = [piece if b"z" not in piece else b"" for piece in tokenizer.pieces]
    with pytest.raises(UsageError, match="' zoo': the tokenizer has no token for the byte b'z'"):
        Hotwords(["zoo"], broken, ids)


def test_files_of_hotwords(tmp_path):
    (tmp_path / "words").write_bytes("\ufeffmusic\r\n\r\n  garden lights \nmusic\n".encode())
    assert read_hotwords(tmp_path / "words") == ["music", "garden lights", "music"]


def test_hotwords_of_another_script(tokenizer, ids):
    assert len(Hotwords(["東京", "नमस्ते", "القاهرة"], tokenizer, ids).starts([])) >= 3


def test_a_long_list_does_no_harm(tiny_artifact):
    words = sorted(set(" ".join(TEXTS.values()).split()))
    with Transcriber(tiny_artifact, "cpu", hotwords=words) as transcriber:
        assert transcriber.transcribe(LONG_CLIP).text == TEXTS[LONG_CLIP.name]
