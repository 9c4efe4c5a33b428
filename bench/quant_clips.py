"""One clip through several artifacts, in the processes of quant.py.

Logits while each is given float32's tokens, and the text it writes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from wer import Clip

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.stream import Stream
from voxtral_onnx.runtime.tokens import Token

DELAY_MS = 480
FIRM = 1.0  # blank margin above which float32's decision may not flip


@dataclass
class Tally:
    """Sums over positions of one case against float32."""

    divergence: float = 0.0  # of the distribution from float32's, in nats
    drift: float = 0.0  # of the blank margin, squared
    flips: int = 0  # blank decisions
    firm_flips: int = 0  # those that float32 makes with a margin above FIRM
    largest_flip: float = 0.0  # float32's largest margin among flipped decisions
    agreed: int = 0  # tokens
    positions: int = 0

    def add(self, other: Tally) -> None:
        """Take in another clip's sums."""
        for name in ("divergence", "drift", "flips", "firm_flips", "agreed", "positions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest_flip = max(self.largest_flip, other.largest_flip)

    def row(self) -> dict[str, Any]:
        """Means over positions, and counts."""
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
    """A stream that is encoded once and decoded twice: given its tokens, and by itself."""

    def __init__(self, transcriber: Transcriber, samples: np.ndarray):
        super().__init__(transcriber, transcriber.num_delay_tokens, stop_at_eos=True)
        self.audio_embeds: list[np.ndarray] = []
        self.feed(samples)
        self.finish()

    def decode(self, audio_embeds: np.ndarray) -> Iterator[Token]:
        """Keep them."""
        self.audio_embeds.append(audio_embeds)
        self.decoder_cache.position += len(audio_embeds)
        return iter(())

    def write(self) -> list[int]:
        """Tokens that the model samples by itself, to the end of the text."""
        self.decoder_cache, self.finished = self.transcriber.decoder.new_cache(), False
        return [token.token_id for token in super().decode(np.concatenate(self.audio_embeds))]

    def tell(self, token_ids: list[int]) -> np.ndarray:
        """float64 [tokens, vocab_size].

        Logits of each generated position, given the tokens before it.
        """
        audio_embeds = np.concatenate(self.audio_embeds)
        cache = self.transcriber.decoder.new_cache()
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
            logits.append(self.transcriber.decoder.session.step(cache, feeds, "logits")[0])
        return np.concatenate(logits)[self.prompt_length - 1 :].astype(np.float64)


def compare(logits: np.ndarray, expected: np.ndarray, blank: int, token_ids: np.ndarray) -> Tally:
    """Tally of one clip."""
    log_p, log_q = (values - logsumexp(values) for values in (expected, logits))
    margins, margins_float = (blank_margin(values, blank) for values in (logits, expected))
    flipped = (margins > 0) != (margins_float > 0)
    certainty = np.abs(margins_float[flipped])
    return Tally(
        divergence=float((np.exp(log_p) * (log_p - log_q)).sum()),
        drift=float(((margins - margins_float) ** 2).sum()),
        flips=int(flipped.sum()),
        firm_flips=int((certainty > FIRM).sum()),
        largest_flip=float(certainty.max(initial=0)),
        agreed=int((logits.argmax(1) == token_ids).sum()),
        positions=len(logits),
    )


def logsumexp(logits: np.ndarray) -> np.ndarray:
    """Log sum exp over the vocabulary, [tokens, 1]."""
    highest = logits.max(1, keepdims=True)
    return highest + np.log(np.exp(logits - highest).sum(1, keepdims=True))


def blank_margin(logits: np.ndarray, blank: int) -> np.ndarray:
    """Logit of the blank less the best other one, [tokens]."""
    return logits[:, blank] - np.delete(logits, blank, 1).max(1)


@cache
def load_transcriber(folder: Path) -> Transcriber:
    """A transcriber of one thread, loaded once a process."""
    (precision,) = Manifest.read(folder).precisions
    return Transcriber(folder, "cpu", precision=precision, threads=1, delay_ms=DELAY_MS)


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip through one artifact."""

    text: str
    tally: Tally
    margins: np.ndarray  # of the blank at each position, [tokens]


def measure_clip(folders: list[Path], clip: Clip) -> dict[str, Heard]:
    """A clip through each artifact, by its name; the first is float32's."""
    reference = load_transcriber(folders[0])
    samples = np.concatenate(list(open_audio(clip.path, reference.sample_rate).blocks()))
    replay = Replay(reference, samples)
    token_ids, blank = replay.write(), replay.ids.streaming_pad
    expected = replay.tell(token_ids)
    found = {}
    for folder in folders:
        replay = Replay(load_transcriber(folder), samples)
        logits = replay.tell(token_ids)
        tally = compare(logits, expected, blank, np.array(token_ids))
        # Where every token is the one that it was given, it writes the same by itself.
        written = token_ids if tally.agreed == tally.positions else replay.write()
        found[folder.name] = Heard(
            reference.tokenizer.decode(written), tally, blank_margin(logits, blank)
        )
    return found


def is_firm_flip(margins: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Which decisions float32 makes with a margin above FIRM and another model the other way."""
    return ((margins > 0) != (expected > 0)) & (np.abs(expected) > FIRM)
