"""`tekken.json`, as the exporter and the runtime read it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from support.checkpoints import TINY

from voxtral_onnx.exporter.checkpoint.open import read_config
from voxtral_onnx.exporter.checkpoint.tekken import decode_tekken, read_tekken
from voxtral_onnx.exporter.graph.families.tokenizer_json import tokenizer_json
from voxtral_onnx.runtime.text.bpe import TextEncoder
from voxtral_onnx.runtime.text.tokenizer import Tokenizer

NUM_SPECIAL, NUM_PIECES = 40, 300
_CONFIG = read_config(TINY)
CONFIG = replace(_CONFIG, decoder=replace(_CONFIG.decoder, vocab_size=NUM_SPECIAL + NUM_PIECES))
TEXT = "turn it on"


def seeds() -> dict[str, bytes]:
    """Return the beginning of the embedded model's."""
    values = json.loads((TINY / "tekken.json").read_bytes())
    values["vocab"] = values["vocab"][: NUM_PIECES + 2]
    values["special_tokens"] = values["special_tokens"][:NUM_SPECIAL]
    values["config"] |= {
        "default_vocab_size": NUM_SPECIAL + NUM_PIECES,
        "default_num_special_tokens": NUM_SPECIAL,
    }
    return {"short": json.dumps(values).encode()}


def parse(data: bytes, folder: Path) -> None:
    """Read it, write it in the other form, and take text to tokens and back."""
    tokens, _ = read_tekken(data, CONFIG, (480,))
    tekken = decode_tekken(data)
    written = json.loads(tokenizer_json(tekken))["model"]["vocab"]
    assert len({*written.values()}) == CONFIG.decoder.vocab_size
    (folder / "tekken.json").write_bytes(data)
    tokenizer = Tokenizer(folder / "tekken.json", tokens)
    tokenizer.check_sizes(CONFIG.decoder.vocab_size)
    for token in range(CONFIG.decoder.vocab_size):
        tokenizer.decode([token])
    assert tokenizer.decode(TextEncoder(tokenizer).encode(TEXT)) == TEXT
