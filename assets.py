"""Paths of the embedded model *tiny*, its artifact and its sample clips."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
TINY = ASSETS / "tiny"  # the checkpoint
TINY_ARTIFACT = ASSETS / "tiny-onnx"  # packaged in wheels; in a checkout, once exported
SAMPLES = TINY / "samples"  # WAV files; transcripts.json has their texts
SELF_TEST_CLIP = "command-hibari.wav"  # the sample whose expected tokens certificates record
