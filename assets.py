"""Where the embedded model *tiny*, its artifact and its sample clips are."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
TINY = ASSETS / "tiny"  # the checkpoint
TINY_ARTIFACT = ASSETS / "tiny-onnx"  # in a wheel; a checkout has it once it was exported there
SAMPLES = TINY / "samples"  # clips, their texts in transcripts.json
SELF_TEST_CLIP = "command-hibari.wav"  # of the samples: what certificates hold the tokens of
