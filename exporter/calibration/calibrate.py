"""Calibration clips: recordings with the tokens that the float model generates for them."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from ...assets import SAMPLES
from ...config import AudioConfig
from ...errors import AudioError
from ...manifest import Streaming
from ..model.mel import mel_model
from .layerwise import Layerwise, decoder_stages, encoder_stages

SECONDS = 30.0  # of audio at most
MAX_PASSES = 6  # through the decoder to find the tokens; on tiny 97 % of them are final by then
EMBEDDED = ("long-mixed.wav", "command-hibari.wav")  # 29 s


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording, padded as a stream pads it, with the tokens that the float model generates."""

    input_features: Tensor  # float32 [n_mels, frames], of whole tokens
    input_ids: Tensor  # int64 [seq]: the prompt, then the generated tokens without the last
    first_generating: int  # the first position that samples a generated token


def calibrate(
    model: Layerwise, recordings: Sequence[np.ndarray], max_passes: int = MAX_PASSES
) -> list[Clip]:
    """Return clips of the first `SECONDS` of some recordings.

    Tokens are found for whole sequences at once: the first pass takes blanks as inputs, each later
    one the tokens that the pass before sampled, until nothing changes, which is the result of
    greedy decoding. A pass settles many tokens, because most depend on the audio alone; tokens
    that still change after `max_passes` stay as sampled last.

    Args:
        model: a model with float weights.
        recordings: float arrays [samples] at the model's rate, full scale 1.
        max_passes: passes through the decoder.

    Raises:
        AudioError: the recordings have no samples, or some that are not finite.
    """
    # Encode
    features = [torch.from_numpy(_log_mel(samples, model)) for samples in _cut(recordings, model)]
    config, tokens = model.checkpoint.config, model.tokens
    embeds = features
    for stage in encoder_stages(config):
        embeds = model.run(stage, embeds)
    embeds = [x[:-1] for x in embeds]  # generation stops a position before the last

    # Begin with the prompt and blanks
    first = model.streaming.left_pad_tokens + model.num_delay_tokens
    ids = [torch.full((len(x),), tokens.streaming_pad) for x in embeds]
    for sequence in ids:
        sequence[0] = tokens.bos

    # Decode until the sampled tokens are those that were given
    for _ in range(max_passes):
        hidden = [model.embed(sequence) + x for sequence, x in zip(ids, embeds, strict=True)]
        for stage in decoder_stages(config):
            hidden = model.run(stage, hidden)
        chosen = model.sample(torch.cat([x[first:-1] for x in hidden])).ids
        written = chosen.split([len(x) - 1 - first for x in hidden])
        if all(
            torch.equal(sequence[first + 1 :], new)
            for sequence, new in zip(ids, written, strict=True)
        ):
            break
        for sequence, new in zip(ids, written, strict=True):
            sequence[first + 1 :] = new
    return [Clip(x, sequence, first) for x, sequence in zip(features, ids, strict=True)]


def embedded_recordings() -> list[np.ndarray]:
    """Return the packaged recordings for calibration where none are given: 29 s of speech."""
    recordings = []
    for name in EMBEDDED:
        with wave.open(str(SAMPLES / name)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        recordings.append(samples.astype(np.float32) / 32768)
    return recordings


def _cut(recordings: Sequence[np.ndarray], model: Layerwise) -> list[np.ndarray]:
    left, cut = int(SECONDS * model.checkpoint.config.audio.sample_rate), []
    for samples in recordings:
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise AudioError(
                f"calibration: expected finite samples [n], got {samples.dtype} "
                f"{list(samples.shape)}"
            )
        cut.append(samples[:left])
        left -= len(cut[-1])
    if not sum(map(len, cut)):
        raise AudioError("calibration: the recordings hold no samples; give some seconds of speech")
    return [samples for samples in cut if len(samples)]


def _log_mel(samples: np.ndarray, model: Layerwise) -> np.ndarray:
    """Return the log-mel features of a recording and the silence around it.

    They are float32 [n_mels, frames] (MODEL.md, steps 1 and 2), computed by the exported mel graph.
    """
    audio, rules = model.checkpoint.config.audio, model.streaming
    padded = pad_samples(samples, audio, rules, model.num_delay_tokens)
    (features,) = ReferenceEvaluator(ir.to_proto(mel_model(audio))).run(
        None, {"audio": padded[None]}
    )
    return np.asarray(features)[0]


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
