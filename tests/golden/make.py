"""What other hosts must compute too: results of the Python runtime as JSON.

tests/runtime/test_golden.py and the units of web/test read the same files; `python
tests/golden/make.py` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from voxtral_onnx.manifest import CacheSpec, Tokens
from voxtral_onnx.runtime.guard import blank_penalty
from voxtral_onnx.runtime.text.captions import Recording, captions, columns, render, segment_values
from voxtral_onnx.runtime.text.segments import Grouper, Segment, group, within
from voxtral_onnx.runtime.text.tokenizer import TextDecoder, Tokenizer
from voxtral_onnx.runtime.tokens import Token

HERE = Path(__file__).parent
TEKKEN = HERE.parents[1] / "assets" / "tiny" / "tekken.json"
TOKENS = Tokens(bos=1, eos=2, streaming_pad=32, streaming_word=33, first_text=1000)
CACHES = {  # tiny's, and one of a short context
    "encoder": CacheSpec(6, 6, 64, 1e6, rows_per_token=4, window=150, keep=152, capacity=408),
    "decoder": CacheSpec(4, 2, 64, 1e6, rows_per_token=1, window=128, keep=127, capacity=159),
    "short": CacheSpec(4, 2, 64, 1e6, rows_per_token=1, window=128, keep=63, capacity=79),
}
WIDTHS = ("ab", "今日", "e\u0301", "\uff46", "🎉", "한", "\ufe4f", "ﬀ", "\u0627", "𠀀")
SNIPPETS = {  # text pieces with the seconds of pause before them and of their own length
    "words": [(" one.", 0, 0.5), (" two", 0, 0.5), (" three", 0.5, 0.5), *[(" x", 0, 1)] * 8],
    "wrapped": [
        (" " + "long-" * 7 + "word", 0, 0.48),
        *[(" of many", 0, 0.4)] * 12,
        (" end?", 0.08, 0.0625),
    ],
    "chinese": [("今日は天気がいいですね。" * 6, 0, 0.8), ("そうです。", 0.08, 0.8)],
    "arabic": [(" مرحبا", 0.16, 0.4), (" بالعالم؟", 0, 0.4), (" نعم", 0.16, 0.4)],
    "markup": [(" a <b> & c", 0, 1), (" \n ", 0, 0.08), (" \x1cd", 3.0625, 0.0625)],
    "controls": [
        (" \x1b]52;c;ZXZpbA==\x07", 0, 0.4),
        (" \x9b2J\u202e\x7f", 0, 0.4),
        (" 1\r\n0:01 --> 0:02\u2028", 0, 0.4),
    ],
    "emoji": [(" 🎉🎉", 0, 0.4), (" 한국어", 0, 0.4), (" \uff46\uff55\uff4c\uff4c", 0, 0.4)],
    "blank": [(" ", 0, 1)],
    "none": [],
}


def golden() -> dict[str, Any]:
    """Values by file name."""
    return {
        "cache": {name: cache_values(spec) for name, spec in CACHES.items()},
        "rotation": rotation_values(),
        "guard": {str(blanks): blank_penalty(blanks) for blanks in range(198, 218)},
        "float16": float16_values(),
        "text": text_values(),
        "segments": segments_values(),
        "captions": {name: captions_values(timed(words)) for name, words in SNIPPETS.items()},
        "columns": {text: columns(text) for text in WIDTHS},
    }


def cache_values(spec: CacheSpec) -> dict[str, Any]:
    """Rows, and slots left, of the first positions, and of some far away."""
    step = spec.rows_per_token
    positions = [*range(0, 3 * spec.capacity, step), 10_000_000 * step]
    return {
        "spec": {name: getattr(spec, name) for name in spec.__slots__},
        "positions": positions,
        "rows": [spec.row(position) for position in positions],
        "room": [spec.slots_left(position) for position in positions],
    }


def rotation_values() -> dict[str, Any]:
    """Cosines and sines in float64."""
    spec, positions = CACHES["encoder"], [0, 1, 749, 131_072, 10_000_000]
    angles = np.array(positions)[:, None] * spec.rope_theta ** (
        -np.arange(0, spec.head_dim, 2) / spec.head_dim
    )
    return {"positions": positions, "cos": np.cos(angles).tolist(), "sin": np.sin(angles).tolist()}


def float16_values() -> dict[str, Any]:
    """Numbers and the bits of the nearest float16."""
    ties = [1 + 2**-11, 1 + 3 * 2**-11, 2**-24, 2**-25, 3 * 2**-25, 65504.0, 65519.0, 65520.0, 1e9]
    # Products and remainders are the same bits everywhere
    spread = [i * 0.618 % 2 - 1 for i in range(250)]
    values = [0.0, *ties, *spread[:200], *(1e-6 * value for value in spread[200:])]
    values += [-value for value in values]
    with np.errstate(over="ignore"):
        bits = np.array(values).astype(np.float16).view(np.uint16)
    return {"values": values, "bits": bits.tolist()}


def text_values() -> dict[str, Any]:
    """What each token completes.

    Whole words, blanks between them, characters in several tokens, broken ones.
    """
    tokenizer = Tokenizer(TEKKEN, TOKENS)
    euro, party = [1000 + byte for byte in "€".encode()], [1000 + byte for byte in "🎉".encode()]
    cases = [
        [33, 1381, 33, 1282, 32, 1265],
        [euro[0], 32, euro[1], 33, euro[2]],
        [*party[:2], 32, *party[2:], *euro],
        [party[0], 1381],
        [1255, 1128, *euro[:2]],
    ]
    values = []
    for ids in cases:
        decoder = TextDecoder(tokenizer)
        pieces = [decoder.push(token_id) for token_id in ids]
        values.append(
            {"ids": ids, "pieces": pieces, "rest": decoder.flush(), "text": tokenizer.decode(ids)}
        )
    return {"cases": values}


def segments_values() -> dict[str, Any]:
    """Tokens and the segments they make."""
    tokenizer = Tokenizer(TEKKEN, TOKENS)
    cases = {
        "groups": [32, 33, 1381, 33, 1282, 1265, 32, 32, 33, 33, 1381, 32, 33],
        "no marker": [32, 1381, 32, 1282],
        "a character over a marker": [33, 1226, 1130, 33, 1172, 32],
        "far apart": [33, 1381, *[32] * 30, 33, 1282],
        "none": [32, 33, 32],
    }
    values = {}
    for name, ids in cases.items():
        decoder = TextDecoder(tokenizer)
        tokens = [
            Token(i, t, decoder.push(t), (i + 1) * 0.08, -0.1 * (i % 7), 0.0)
            for i, t in enumerate(ids)
        ]
        values[name] = {
            "tokens": [
                {"token_id": t.token_id, "text": t.text, "end": t.end, "logprob": t.logprob}
                for t in tokens
            ],
            "segments": [
                {**segment_values(segment), "token_ids": list(segment.token_ids)}
                for segment in group(tokens, Grouper(TOKENS))
            ],
            # Of audio that ends with the second token, before most of the words
            "within": [
                [segment.start, segment.end]
                for segment in (within(one, 0.16) for one in group(tokens, Grouper(TOKENS)))
            ],
        }
    return values


def captions_values(segments: list[Segment]) -> dict[str, Any]:
    """Captions of segments, and the files they make."""
    recording = Recording(segments, segments[-1].end if segments else 0.0, {"delay_ms": 480})
    return {
        "segments": [
            {"id": s.id, "start": s.start, "end": s.end, "text": s.text, "logprob": s.logprob}
            for s in segments
        ],
        "captions": [
            {"start": c.start, "end": c.end, "lines": list(c.lines)} for c in captions(segments)
        ],
        "duration": recording.duration,
        **{
            output_format: render(recording, output_format)
            for output_format in ("txt", "srt", "vtt", "json")
        },
    }


def timed(words) -> list[Segment]:
    segments, end = [], 0.0
    for i, (text, pause, length) in enumerate(words):
        start = end + pause
        end = start + length
        segments.append(Segment(i, start, end, text, (), -0.03125 * (i + 1)))
    return segments


if __name__ == "__main__":
    for name, values in golden().items():
        (HERE / f"{name}.json").write_text(json.dumps(values, indent=1, ensure_ascii=True) + "\n")
