"""tekken.json as types: what a damaged or hostile one cannot say."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from support.checkpoints import TINY

from voxtral_onnx.errors import CheckpointError
from voxtral_onnx.tekken import Tekken

CONTENT = (TINY / "tekken.json").read_bytes()


def edited(change: Callable[[dict], object]) -> bytes:
    values = json.loads(CONTENT)
    change(values)
    return json.dumps(values).encode()


def encoded(piece: bytes) -> dict[str, str]:
    return {"token_bytes": base64.b64encode(piece).decode()}


def test_what_it_says():
    tekken, values = Tekken.decode(CONTENT, CheckpointError), json.loads(CONTENT)
    assert tekken.pieces == [base64.b64decode(entry["token_bytes"]) for entry in values["vocab"]]
    assert tekken.names == [entry["token_str"] for entry in values["special_tokens"]]


def test_what_the_file_has_beyond_the_model():
    content = edited(
        lambda t: (t["config"].update(default_vocab_size=1300), t["special_tokens"].pop(7))
    )
    tekken = Tekken.decode(content, CheckpointError)
    assert len(tekken.pieces) == 300 and tekken.names[1:8:6] == ["<s>", "<SPECIAL_7>"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t["vocab"][5].update(token_bytes="A"), "Invalid base64"),
        (lambda t: t["vocab"][5].update(token_bytes="A=B="), "Invalid base64"),
        (lambda t: t["vocab"][5].update(token_bytes=""), "length >= 1"),
        (lambda t: t["vocab"][5].update(encoded(bytes(257))), "length <= 256"),
        (lambda t: t["vocab"][5].update(encoded(b"\6")), "a token appears twice"),
        (lambda t: t["vocab"][5].update(rank=6), "expected the ranks 0, 1, 2"),
        (lambda t: t["vocab"].reverse(), "expected the ranks 0, 1, 2"),
        (lambda t: t["vocab"].pop(), "1000 special and 4095 text tokens do not make 5096"),
        (lambda t: t["config"].update(default_vocab_size=10**9), "Expected `int` <= 16777216"),
        (lambda t: t["config"].update(default_num_special_tokens=10**9), "Expected `int` <= 65536"),
        (lambda t: t["config"].update(default_num_special_tokens=5097), "do not make 5096"),
        (lambda t: t["config"].update(pattern=3), r"`str \| null`, got `int`"),
        (lambda t: t["special_tokens"][1].update(rank=0), "a rank or a name appears twice"),
        (lambda t: t["special_tokens"][1].update(token_str="</s>"), "appears twice"),
        (lambda t: t["special_tokens"][1].update(rank=1000), "expected ranks from 0 to 999"),
        (lambda t: t["special_tokens"][1].update(rank=-1), "expected ranks from 0 to 999"),
        (lambda t: t["special_tokens"][1].update(token_str=""), "length >= 1"),
        (lambda t: t["audio"].update(sampling_rate=1), "Expected `int` >= 1000"),
        (lambda t: t["audio"].update(streaming_n_left_pad_tokens=10**9), "<= 65536"),
        (lambda t: t["audio"].update(transcription_delay_ms=1e300), "<= 60000"),
    ],
)
def test_what_it_cannot_say(change, reason):
    with pytest.raises(CheckpointError, match=reason):
        Tekken.decode(edited(change), CheckpointError)
