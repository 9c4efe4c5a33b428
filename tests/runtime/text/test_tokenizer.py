"""Tekken decoding against mistral-common."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import mistral_common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from support.damage import rehash

from voxtral_onnx.errors import ArtifactError
from voxtral_onnx.limits import TOKENIZER
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.runtime.text.tokenizer import TextDecoder, Tokenizer
from voxtral_onnx.runtime.transcriber import Transcriber

TINY = Path(__file__).parents[3] / "assets" / "tiny" / "tekken.json"
REAL = (
    Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"
)  # the vocabulary of Voxtral, 150,000 entries
TOKENS = Tokens(bos=1, eos=2, streaming_pad=32, streaming_word=33, first_text=1000)


@pytest.fixture(scope="module")
def real():
    return Tokenizer(REAL, TOKENS)


@pytest.fixture(scope="module")
def oracle():
    return Tekkenizer.from_file(REAL)


def test_known_ids(real):
    ids = [45383, 1044, 4304, 1046, 22652, 14687, 10013, 30367, 15199, 119685, 1142, 1137]
    assert real.decode(ids) == "Hello, world. Déjà vu 日本語 🎉"
    assert (
        real.decode([131071]) == "后汉书"
        and real.bytes_of(1000) == b"\0"
        and real.bytes_of(1255) == b"\xff"
    )


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_equals_mistral_common(real, oracle, text):
    shift = 1000 - oracle.num_special_tokens
    ids = [token + shift for token in oracle.encode(text, bos=False, eos=False)]
    assert real.decode(ids) == text.removeprefix(" ")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1000, 131071), max_size=30))
def test_any_ids_equal_mistral_common(real, oracle, ids):
    shift = 1000 - oracle.num_special_tokens
    expected = oracle.decode(
        [token - shift for token in ids], special_token_policy=SpecialTokenPolicy.IGNORE
    )
    assert real.decode(ids) == expected.removeprefix(" ")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1000, 131071), max_size=30), st.integers(0, 2**30))
def test_pieces_join_to_the_whole_whatever_stands_between(real, ids, blanks):
    """A character may span several tokens with blanks between them."""
    decoder, text = TextDecoder(real), ""
    for i, token in enumerate(ids):
        text += decoder.push(token)
        if blanks >> i & 1:
            text += decoder.push(TOKENS.streaming_pad)
    assert (text + decoder.flush()).removeprefix(" ") == real.decode(ids)


def test_tiny_has_the_words_it_was_trained_on():
    tokenizer = Tokenizer(TINY, TOKENS)
    assert tokenizer.decode([33, 1381, 33, 1282, 32, 1265]) == "turn on the"


def test_a_file_larger_than_its_budget_is_not_read(tmp_path):
    with (tmp_path / "tekken.json").open("wb") as file:
        file.truncate(TOKENIZER + 1)
    with pytest.raises(ArtifactError, match="expected at most 67,108,864 bytes"):
        Tokenizer(tmp_path / "tekken.json", TOKENS)


def test_a_tokenizer_of_another_model(tiny_artifact, tmp_path):
    folder = Path(copytree(tiny_artifact, tmp_path / "artifact"))
    values = json.loads((folder / "tekken.json").read_bytes())
    values["config"]["default_vocab_size"] -= 1
    (folder / "tekken.json").write_text(json.dumps(values))
    rehash(folder)
    with pytest.raises(ArtifactError, match=r"expected 5,096 tokens, 1,000 of them special.*5,095"):
        Transcriber(folder, precision="q4")


@pytest.mark.parametrize("content", ["", "{}", '{"vocab": [{}]}', '{"vocab": 3}'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "tekken.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"tekken\.json: not a readable Tekken tokenizer"):
        Tokenizer(tmp_path / "tekken.json", TOKENS)


def test_ids_are_looked_up_by_name(tmp_path):
    """mistral-common's own test file has the blank at 39."""
    from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
    from voxtral_onnx.exporter.checkpoint.tekken import read_tekken

    values = json.loads(TINY.read_bytes())
    for entry in values["special_tokens"]:
        entry["token_str"] = {32: "<SPECIAL_32>", 39: "[STREAMING_PAD]"}.get(
            entry["rank"], entry["token_str"]
        )
    config = open_checkpoint(TINY.parent).config
    tokens, _ = read_tekken(json.dumps(values).encode(), config, (480,))
    assert tokens == replace(TOKENS, streaming_pad=39)
    assert base64.b64decode(values["vocab"][65]["token_bytes"]) == b"A"
