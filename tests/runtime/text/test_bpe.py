"""Tekken encoding against mistral-common."""

from pathlib import Path
from typing import Any

import mistral_common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from voxtral_onnx.errors import UsageError
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.runtime.text.bpe import TextEncoder, split
from voxtral_onnx.runtime.text.tokenizer import Tokenizer

REAL = Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"
TOKENS = Tokens(bos=1, eos=2, streaming_pad=32, streaming_word=33, first_text=1000)
# Blocks that every Unicode version of the two libraries agrees on: Latin to Devanagari, kana and
# common ideographs.
CHARACTERS = st.one_of(
    st.characters(max_codepoint=0x24F),
    st.sampled_from("αβΩжЯшأبةكيहिन्दीनमस्ते日本語のカタカナーǅʰ१٣Ⅷ½—…/\r\n\t \u00a0\u3000🎉"),
)
WORDS = [
    *(
        "hotword",
        "Voxtral",
        "McDonald's",
        "A320",
        "O'Brien",
        "C++",
        "naïve",
        "Zürich",
        "Łódź",
        "iPhone 15",
    ),
    *("القاهرة", "नमस्ते", "東京タワー", "ﬁne", "x/y//z", "--", "3.14", "e\u0301"),
]


@pytest.fixture(scope="module")
def real():
    return TextEncoder(Tokenizer(REAL, TOKENS))


@pytest.fixture(scope="module")
def oracle():
    tokenizer = Tekkenizer.from_file(REAL)
    return lambda text: [
        i + 1000 - tokenizer.num_special_tokens
        for i in tokenizer.encode(text, bos=False, eos=False)
    ]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("before", ["", " "])
def test_words_equal_mistral_common(real, oracle, word, before):
    assert real.encode(before + word) == oracle(before + word)


@settings(max_examples=300, deadline=None)
@given(st.text(CHARACTERS, max_size=40))
def test_text_equals_mistral_common(real, oracle, text):
    assert real.encode(text) == oracle(text)
    assert "".join(split(text)) == text


@pytest.mark.parametrize(
    "text", ["a" * 3000, "ab" * 1500, "\u3042\u3044" * 1000, "xyzzy\u0301" * 500]
)
def test_a_long_piece_equals_mistral_common_in_few_steps(real, oracle, text):
    counted = Counted(real.ranks)
    encoder = TextEncoder(real.tokenizer)
    encoder.__dict__["ranks"] = counted
    assert encoder.encode(text) == oracle(text)
    assert counted.lookups < 10 * len(text.encode())


def test_half_a_character(real):
    with pytest.raises(UsageError, match=r"'\\ud800': expected whole characters"):
        real.encode("a\ud800")


class Counted(dict[bytes, int]):
    lookups = 0

    def get(self, *arguments: Any) -> Any:
        self.lookups += 1
        return super().get(*arguments)


def test_a_byte_without_a_token(real):
    without = TextEncoder(real.tokenizer)
    without.__dict__["ranks"] = {
        piece: rank for piece, rank in real.ranks.items() if b"z" not in piece
    }
    assert without.encode(" pie") == real.encode(" pie")
    with pytest.raises(UsageError, match="' pizza': the tokenizer has no token for the byte b'z'"):
        without.encode(" pizza")
