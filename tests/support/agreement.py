"""What hosts must agree on.

The tokens of the Python runtime, up to decisions that are too close to call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from support.commands import SAMPLES

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.tokens import Token

# Between the two best logits: onnxruntime multiplies 4-bit weights by activations rounded to 8
# bits, others do not.
CLOSE = 0.5
SHORT_CLIPS = (
    "command-hibari.wav",
    "date-hibari.wav",
    "digits-espeak.wav",
    "number-flite.wav",
    "time-flite.wav",
)


@dataclass(frozen=True)
class Sound:
    """Samples at the model's rate and what Python writes of them."""

    name: str
    samples: np.ndarray
    tokens: Sequence[Token]

    def judge(self, found: Sequence[int]) -> str:
        """Compare another host's tokens up to the first difference, which must be close.

        How far they agree.
        """
        ids = [token.token_id for token in self.tokens]
        different = next(
            (i for i, pair in enumerate(zip(ids, found, strict=False)) if pair[0] != pair[1]), None
        )
        if different is None:
            assert len(found) == len(ids), (
                f"{self.name}: expected {len(ids)} tokens, got {len(found)}"
            )
            return f"{self.name}: all {len(ids)} tokens"
        lead = lead_of(self.tokens[different])
        assert lead < CLOSE, (
            f"{self.name}: token {different}: expected {ids[different]} (by {lead:.2f}), got "
            "another"
        )
        return f"{self.name}: {different} of {len(ids)} tokens, then a decision by {lead:.3f}"


def lead_of(token: Token) -> float:
    """How far the best logit is ahead of the next."""
    best, second = token.alternatives[:2]
    return best.logprob - second.logprob


@cache
def sound(artifact: Path, precision: str, clip: str) -> Sound:
    """A clip with Python's tokens; "2 min" is all clips joined and repeated for a little longer."""
    if clip.endswith(" min"):
        every = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
        samples = np.resize(np.concatenate(every), (60 * int(clip[:-4]) + 1) * 16000)
    else:
        samples = soundfile.read(SAMPLES / clip, dtype="float32")[0]
    tokens: list[Token] = []
    with Transcriber(
        artifact, precision=precision, device="cpu", alternatives=2, blank_guard=False
    ) as transcriber:
        assert transcriber.transcribe(samples, on_token=tokens.append).token_ids
    return Sound(clip, samples, tokens)
