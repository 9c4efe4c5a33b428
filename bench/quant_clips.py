"""The part of quant.py that its worker processes run: one clip through several artifacts.

For each artifact it compares the logits after the tokens that float32 generates, and decodes the
text that the artifact generates by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from wer import Clip

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.decision import greedy_decision
from voxtral_onnx.runtime.stream import Stream
from voxtral_onnx.runtime.tokens import Token

DELAY_MS = 480
FIRM = 1.0  # blank margin in logits, above which a flip of float32's decision counts as an error


@dataclass
class Tally:
    """The sums over positions of one case's differences from float32."""

    divergence: float = 0.0  # Kullback-Leibler divergence from float32's distribution, in nats
    drift: float = 0.0  # squared differences of the blank margin
    flips: int = 0  # decisions between blank and another token that differ
    firm_flips: int = 0  # those that float32 makes with a margin above FIRM
    largest_flip: float = 0.0  # float32's largest margin among them
    agreed: int = 0  # equal tokens
    positions: int = 0

    def add(self, other: Tally) -> None:
        """Add another clip's sums."""
        for name in ("divergence", "drift", "flips", "firm_flips", "agreed", "positions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest_flip = max(self.largest_flip, other.largest_flip)

    def row(self) -> dict[str, Any]:
        """Return means over positions, and counts."""
        return {
            "positions": self.positions,
            "logit_kl": float(f"{self.divergence / self.positions:.3g}"),
            "margin_drift": round((self.drift / self.positions) ** 0.5, 4),
            "flips": self.flips,
            "firm_flips": self.firm_flips,
            "largest_flip": round(self.largest_flip, 3),
            "token_agreement": round(100 * self.agreed / self.positions, 3),
        }


class Replay(Stream):
    """A stream that is encoded once and then decoded twice, with given and with its own tokens."""

    def __init__(self, transcriber: Transcriber, samples: np.ndarray):
        options = replace(transcriber.options, stop_at_eos=True)
        super().__init__(transcriber.model, options, grid=transcriber.model.grid)
        self.audio_embeds: list[np.ndarray] = []
        self.feed(samples)
        self.finish()

    def decode(self, audio_embeds: np.ndarray) -> Iterator[Token]:
        """Keep the embeddings instead of decoding them."""
        self.audio_embeds.append(audio_embeds)
        self.decoder_cache.position += len(audio_embeds)
        return iter(())

    def write(self) -> list[int]:
        """Return the ids of the tokens that the model generates by itself."""
        self.decoder_cache, self.finished = self.model.decoder.new_cache(), False
        return [token.token_id for token in super().decode(np.concatenate(self.audio_embeds))]

    def logits_after(self, token_ids: list[int]) -> np.ndarray:
        """Return the logits of each generated position after given tokens (teacher forcing).

        Args:
            token_ids: tokens of all generated positions.

        Returns:
            float64 [tokens, vocab_size].
        """
        audio_embeds = np.concatenate(self.audio_embeds)
        cache = self.model.decoder.new_cache()
        logits = []
        ids = [self.ids.bos] + [self.ids.streaming_pad] * (self.prompt_length - 1) + token_ids[:-1]
        while (at := cache.position) < len(ids):
            rows = min(len(ids) - at, cache.slots_left)
            feeds = {
                "input_ids": np.array([ids[at : at + rows]], np.int64),
                "audio_embeds": audio_embeds[None, at : at + rows],
                "num_delay_tokens": np.array([self.num_delay_tokens], np.int64),
                "blank_penalty": np.zeros((1, rows), np.float32),
                **cache.positions(rows),
            }
            logits.append(self.model.decoder.session.step(cache, feeds, "logits")[0])
        return np.concatenate(logits)[self.prompt_length - 1 :].astype(np.float64)


def compare(logits: np.ndarray, expected: np.ndarray, blank: int, token_ids: np.ndarray) -> Tally:
    """Return the tally of one clip.

    Args:
        logits: float64 [tokens, vocab_size] of the case.
        expected: the same of float32.
        blank: id of the blank token.
        token_ids: tokens that float32 sampled, [tokens].
    """
    made, made_float = (greedy_decision(values, blank) for values in (logits, expected))
    log_p, log_q = expected - made_float.log_sum[:, None], logits - made.log_sum[:, None]
    margins, margins_float = made.blank_margin, made_float.blank_margin
    flipped = (margins > 0) != (margins_float > 0)
    certainty = np.abs(margins_float[flipped])
    return Tally(
        divergence=float((np.exp(log_p) * (log_p - log_q)).sum()),
        drift=float(((margins - margins_float) ** 2).sum()),
        flips=int(flipped.sum()),
        firm_flips=int((certainty > FIRM).sum()),
        largest_flip=float(certainty.max(initial=0)),
        agreed=int((made.token_id == token_ids).sum()),
        positions=len(logits),
    )


@cache
def load_transcriber(folder: Path) -> Transcriber:
    """Return a transcriber of one thread, loaded once in each process."""
    (precision,) = Manifest.read(folder).precisions
    return Transcriber(folder, "cpu", precision=precision, threads=1, delay_ms=DELAY_MS)


@dataclass(frozen=True, slots=True)
class ClipRun:
    """The results of one clip with one artifact."""

    text: str
    tally: Tally
    margins: np.ndarray  # blank margin at each position, [tokens]


def measure_clip(folders: list[Path], clip: Clip) -> dict[str, ClipRun]:
    """Run a clip through artifacts and return the results by artifact name.

    The first artifact is float32's, with which the others are compared.
    """
    reference = load_transcriber(folders[0])
    samples = np.concatenate(list(open_audio(clip.path, reference.sample_rate).blocks()))
    replay = Replay(reference, samples)
    token_ids, blank = replay.write(), replay.ids.streaming_pad
    expected = replay.logits_after(token_ids)
    found = {}
    for folder in folders:
        replay = Replay(load_transcriber(folder), samples)
        logits = replay.logits_after(token_ids)
        tally = compare(logits, expected, blank, np.array(token_ids))
        # An artifact that samples each token that it was fed would generate the same by itself
        written = token_ids if tally.agreed == tally.positions else replay.write()
        margins = greedy_decision(logits, blank).blank_margin
        found[folder.name] = ClipRun(reference.tokenizer.decode(written), tally, margins)
    return found


def is_firm_flip(margins: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return which decisions differ from float32's, where its margin is above FIRM."""
    return ((margins > 0) != (expected > 0)) & (np.abs(expected) > FIRM)
