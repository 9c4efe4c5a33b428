"""Run clips through an artifact as streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from msgspec import Struct

from ..assets import SAMPLES, SELF_TEST_CLIP
from ..config import AudioConfig
from ..decode import RelativeName
from ..decode import decode as decode_json
from ..errors import AudioError
from ..manifest import Streaming
from ..runtime.audio.files import open_audio, require_whole
from ..runtime.decision import greedy_decision
from ..runtime.stream import Stream
from ..runtime.tokens import SampledToken, Token
from ..runtime.transcriber import Transcriber
from .evaluation.references import read_text

PIECES = (1, 1279, 640, 5000, 1281, 160)  # samples fed at a time, in a cycle


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording, with its text where that is known."""

    name: str
    samples: np.ndarray  # float32 [n] at the model's rate
    text: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """The tokens that a model generates for a clip, with a row for each."""

    token_ids: np.ndarray  # int64 [n]
    logprobs: np.ndarray  # float32 [n]
    margins: np.ndarray  # float32 [n], the blank's logit less the best other one
    logits: np.ndarray  # float32 [n, vocab_size]; [0, 0] where they were not asked for


class _Sample(Struct):
    file: RelativeName
    text: str


class _Transcripts(Struct):
    samples: list[_Sample]


def embedded_clips(sample_rate: int) -> list[Clip]:
    """Return the packaged samples as clips, the self-test's first."""
    known = decode_json(_Transcripts, (SAMPLES / "transcripts.json").read_bytes(), ValueError)
    texts = {sample.file: sample.text for sample in known.samples}
    names = [SELF_TEST_CLIP, *(name for name in sorted(texts) if name != SELF_TEST_CLIP)]
    return [_read(SAMPLES / name, sample_rate, texts[name]) for name in names]


def open_clips(files: Sequence[str | Path], sample_rate: int) -> list[Clip]:
    """Read recordings, and the text of each `a.wav` from `a.txt` beside it, if that exists.

    Raises:
        AudioError: a recording is not readable, empty, or not whole.
        UsageError: a text is not readable.
    """
    clips = []
    for file in map(Path, files):
        text = file.with_suffix(".txt")
        clips.append(_read(file, sample_rate, read_text(text) if text.is_file() else None))
    return clips


def _read(file: Path, sample_rate: int, text: str | None) -> Clip:
    source = open_audio(file, sample_rate)
    require_whole(source)
    samples = np.concatenate([np.zeros(0, np.float32), *source.blocks()])
    if not len(samples):
        raise AudioError(f"{file}: expected a recording, got no samples; leave it out")
    return Clip(file.name, samples, text)


def stream(
    transcriber: Transcriber, samples: np.ndarray, *, in_pieces: bool = False, logits: bool = False
) -> Run:
    """Transcribe a clip through a live stream, to its last sample even after an end-of-text token.

    Args:
        transcriber: the model.
        samples: float32 [n] at the model's rate.
        in_pieces: whether to feed them in pieces of the sizes PIECES.
        logits: whether to record the logits.
    """
    recorder = _Recorder(transcriber) if logits else None
    live = Stream(transcriber.model, transcriber.options, sampler=recorder)
    tokens: list[Token] = []
    for piece in _pieces(samples) if in_pieces else [samples]:
        tokens += live.feed(piece)
    tokens += live.finish()
    return Run(
        np.array([token.token_id for token in tokens]),
        np.array([token.logprob for token in tokens], np.float32),
        np.array([token.blank_margin for token in tokens], np.float32),
        np.stack(recorder.rows[-len(tokens) :]) if recorder else np.empty((0, 0), np.float32),
    )


class _Recorder:
    """A sampler that chooses as the graph does, and records the logits."""

    def __init__(self, transcriber: Transcriber):
        self.blank, self.recent = transcriber.manifest.tokens.streaming_pad, list[int]()
        self.rows: list[np.ndarray] = []  # float32 [vocab_size], of each position that was sampled

    def sample(self, logits: np.ndarray, blank_penalty: float) -> SampledToken:
        """Return the likeliest token of a position from its logits."""
        self.rows.append(logits.copy())
        made = greedy_decision(logits, self.blank, blank_penalty)
        return SampledToken(int(made.token_id), float(made.logprob), float(made.blank_margin))

    def accept_token(self, token_id: int) -> None:
        """Take the token that was written, on which nothing depends."""


def pad_samples(
    samples: np.ndarray, audio: AudioConfig, rules: Streaming, num_delay_tokens: int
) -> np.ndarray:
    """Pad a recording with the silence that a stream puts around it.

    The result is float32 [n], and its mel frames make up whole tokens.
    """
    per_token = audio.samples_per_token
    left = rules.look_back_samples + rules.left_pad_tokens * per_token
    right = -len(samples) % per_token + (num_delay_tokens + rules.right_pad_tokens) * per_token
    return np.pad(samples.astype(np.float32), (left, right + rules.look_ahead_samples))


def _pieces(samples: np.ndarray) -> Iterator[np.ndarray]:
    begin = 0
    for size in cycle(PIECES):
        if begin >= len(samples):
            return
        yield samples[begin : begin + size]
        begin += size
