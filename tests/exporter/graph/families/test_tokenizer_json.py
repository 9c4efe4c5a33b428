"""`tokenizer.json` against mistral-common, and its form against transformers' converter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mistral_common
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from support.checkpoints import TINY
from tokenizers import Tokenizer
from transformers.integrations.mistral.tokenizer import MistralConverter

from voxtral_onnx.errors import CheckpointError
from voxtral_onnx.exporter.checkpoint.tekken import decode_tekken
from voxtral_onnx.exporter.graph.families.tokenizer_json import tokenizer_json

# The vocabulary of Voxtral
REAL = Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"
# Blocks that every Unicode version of the libraries agrees on.
CHARACTERS = st.one_of(
    st.characters(max_codepoint=0x24F),
    st.sampled_from("αβΩжЯшأبةكيहिन्दीनमस्ते日本語のカタカナーǅʰ١٣Ⅷ½—…/\r\n\t \u00a0\u3000🎉"),
)
TEXTS = json.loads((Path(__file__).parents[3] / "reference" / "texts.json").read_text())


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """With Voxtral's vocabulary: their tokenizer, and ours as Hugging Face's library reads it."""
    values = json.loads(REAL.read_bytes())
    names = {
        0: "<unk>",
        1: "<s>",
        2: "</s>",
        11: "<pad>",
        32: "[STREAMING_PAD]",
        33: "[STREAMING_WORD]",
    }
    values["special_tokens"] = [
        {"rank": i, "token_str": names.get(i, f"<SPECIAL_{i}>"), "is_control": True}
        for i in range(1000)
    ]
    values["config"] |= {
        "default_num_special_tokens": 1000,
        "default_vocab_size": 131072,
        "version": "v7",
    }
    return _both(json.dumps(values).encode(), tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return _both((TINY / "tekken.json").read_bytes(), tmp_path_factory.mktemp("tiny"))


def _both(tekken, folder):
    (folder / "tekken.json").write_bytes(tekken)
    return (
        Tekkenizer.from_file(folder / "tekken.json"),
        Tokenizer.from_str(tokenizer_json(decode_tekken(tekken)).decode()),
        folder,
    )


def assert_same(both, text):
    theirs, ours, _ = both
    ids = theirs.encode(text, bos=False, eos=False)
    assert ours.encode(text, add_special_tokens=False).ids == ids
    assert ours.decode(ids) == theirs.decode(ids, special_token_policy=SpecialTokenPolicy.IGNORE)


@pytest.mark.parametrize("text", TEXTS)
def test_fixed_texts(real, tiny, text):
    assert_same(real, text)
    assert_same(tiny, text)


@settings(max_examples=500, deadline=None)
@given(st.text(CHARACTERS, max_size=60))
def test_any_text(real, text):
    assume(not re.search(r"<[A-Za-z/]|\[[A-Z]", text))
    assert_same(real, text)


def test_names_of_special_tokens_are_those_tokens(real):
    """As in every tokenizer of Hugging Face's library; mistral-common takes them for text."""
    assert real[1].encode("<s>[STREAMING_PAD]x", add_special_tokens=False).ids[:2] == [1, 32]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "ab", " ", "  ", "1", "é", "日", ".", "\n"]), max_size=60)
)
def test_repetitions(real, tiny, parts):
    assert_same(real, "".join(parts))
    assert_same(tiny, "".join(parts))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 131071), max_size=40))
def test_any_ids(real, ids):
    """Special tokens vanish; a character's bytes may stand on both sides of them."""
    theirs, ours, _ = real
    text = [token_id for token_id in ids if token_id >= theirs.num_special_tokens]
    assert ours.decode(ids) == ours.decode(text)
    assert ours.decode(text) == theirs.decode(text, special_token_policy=SpecialTokenPolicy.IGNORE)


def test_form_is_that_of_transformers_converter(tiny):
    _, ours, folder = tiny
    theirs = MistralConverter(folder / "tekken.json").converted()
    assert json.loads(ours.to_str()) == json.loads(theirs.to_str())


def test_tokenizer_without_a_pattern():
    values = json.loads((TINY / "tekken.json").read_bytes())
    del values["config"]["pattern"]
    with pytest.raises(CheckpointError, match=r"tekken.json: no pattern"):
        tokenizer_json(decode_tekken(json.dumps(values).encode()))


def test_a_special_token_with_the_name_of_a_text_token():
    values = json.loads((TINY / "tekken.json").read_bytes())
    values["special_tokens"][5]["token_str"] = "A"
    with pytest.raises(CheckpointError, match=r"tekken.json: a special token has the name"):
        tokenizer_json(decode_tekken(json.dumps(values).encode()))
