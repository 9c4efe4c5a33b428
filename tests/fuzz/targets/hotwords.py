"""Files of hotwords, and the tokens that become of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from voxtral_onnx.assets import TINY
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.runtime.hotwords import Hotwords, read_hotwords
from voxtral_onnx.runtime.text.tokenizer import Tokenizer

IDS = Tokens(bos=1, eos=2, streaming_pad=32, streaming_word=33, first_text=1000)
WORDS = [
    "Voxtral",
    "garden lights",
    "naïve café",
    "東京タワー",
    "القاهرة",
    "C++ 3.14",
    "e\u0301 🎉",
    "AbbA",
]


def seeds() -> dict[str, bytes]:
    """Lists in every form that is read."""
    return {
        "word": b"music",
        "lines": "\n".join(WORDS).encode(),
        "windows": ("\ufeff" + "\r\n".join(WORDS) + "\r\n").encode(),
        "phrases": b"a long phrase of many words\n" * 20,
        "longest": b"a" * 100 + b"\n" + "\U00012345".encode() * 100,
        "many": b"\n".join(b"%d" % number for number in range(300)),
    }


def parse(data: bytes, folder: Path) -> None:
    """Read a list and encode it, as `transcribe --hotwords` does."""
    file = folder / "words.txt"
    file.write_bytes(data)
    words = read_hotwords(file)
    hotwords = Hotwords(words, _tokenizer(), IDS)
    assert len(hotwords.starts([])) > 0 and hotwords.longest <= 1000
    hotwords.continuations([1000] * hotwords.longest)


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer(TINY / "tekken.json", IDS)
