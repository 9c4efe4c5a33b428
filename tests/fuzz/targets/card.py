"""`card.json`: what neither the hyperparameters nor the tokenizer of a checkpoint say."""

from __future__ import annotations

import json
from pathlib import Path

from support.checkpoints import TINY

from voxtral_onnx.exporter.checkpoint.open import read_card, read_config
from voxtral_onnx.exporter.checkpoint.tekken import read_tekken

TOKENIZER = (TINY / "tekken.json").read_bytes()
CONFIG = read_config(TINY)


def seeds() -> dict[str, bytes]:
    """Return the embedded model's, and one with all keys."""
    values = {"scope": "A test.", "trained_delays_ms": [80, 480, 2400], "license": "apache-2.0"}
    return {"tiny": (TINY / "card.json").read_bytes(), "whole": json.dumps(values).encode()}


def parse(data: bytes, folder: Path) -> None:
    """Read it and hold its delays against the model."""
    (folder / "card.json").write_bytes(data)
    card = read_card(folder)
    _, streaming = read_tekken(TOKENIZER, CONFIG, card.trained_delays_ms)
    assert len(streaming.trained_delay_tokens) == len(card.trained_delays_ms)
