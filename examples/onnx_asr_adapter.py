"""Voxtral with the method names of the onnx-asr package.

    model = load_model("tiny")  # an artifact's folder, or ORG/NAME of the hub
    model.recognize("clip.wav")
    model.with_timestamps().recognize(["a.wav", "b.wav"])

Where that package is installed its own adapters take `VoxtralAsr`, and give it their voice detection:

    asr = TextResultsAsrAdapter(VoxtralAsr("tiny"), Resampler(16_000, {}))
    asr.with_vad(onnx_asr.load_vad("silero")).recognize("clip.wav")

Usage: python onnx_asr_adapter.py MODEL AUDIO...
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import soxr

from voxtral_onnx import Transcriber

Waveform = str | Path | np.ndarray  # a file, or float32 [samples] or [samples, channels]


@dataclass
class TimestampedResult:
    """What onnx-asr's class of this name holds."""

    text: str
    timestamps: list[float]  # seconds, where each token's 80 ms begin
    tokens: list[str]
    logprobs: list[float]


class VoxtralAsr:
    """onnx-asr's protocol `Asr`."""

    def __init__(self, model: str | Path, quantization: str | None = None):
        self.transcriber = Transcriber(model, precision=quantization)

    def _get_sample_rate(self) -> int:
        return self.transcriber.sample_rate

    def recognize_batch(
        self, waveforms: np.ndarray, waveforms_len: np.ndarray, /, **options: object
    ) -> Iterator[TimestampedResult]:
        """A result for each row of float32 [batch, samples], of which `waveforms_len` samples count."""
        for waveform, length in zip(waveforms, waveforms_len, strict=True):
            said = []
            transcript = self.transcriber.transcribe(waveform[:length], on_token=said.append)
            text = transcript.text  # decodes
            tokens = [token for token in said if token.text]
            seconds = transcript.transcriber.manifest.config.audio.samples_per_token / self._get_sample_rate()
            yield TimestampedResult(
                text,
                [token.end - seconds for token in tokens],
                [token.text for token in tokens],
                [token.logprob for token in tokens],
            )


class Recognizer:
    """onnx-asr's adapters, as far as they need no other model."""

    def __init__(self, asr: VoxtralAsr, render: Callable[[TimestampedResult], Any]):
        self.asr, self.render = asr, render

    def with_timestamps(self) -> Recognizer:
        """One that gives tokens, times and log probabilities besides the text."""
        return Recognizer(self.asr, lambda result: result)

    def recognize(
        self,
        waveform: Waveform | list[Waveform],
        *,
        sample_rate: int = 16_000,
        channel: int | Literal["mean"] | None = None,
    ) -> Any:
        """The text of a recording, or a list of texts of a list; `sample_rate` is that of arrays."""
        if isinstance(waveform, list):
            return [self.recognize(each, sample_rate=sample_rate, channel=channel) for each in waveform]
        samples = waveform
        if not isinstance(samples, np.ndarray):
            samples, sample_rate = soundfile.read(samples, dtype="float32")
        if samples.ndim == 2:
            if channel is None and samples.shape[1] > 1:
                raise ValueError("several channels: choose one with `channel`, or their mean with channel='mean'")
            samples = samples.mean(1) if channel == "mean" else samples[:, channel or 0]
        samples = soxr.resample(samples, sample_rate, self.asr._get_sample_rate())
        return self.render(next(self.asr.recognize_batch(samples[None], np.array([len(samples)]))))


def load_model(model: str, path: str | Path | None = None, *, quantization: str | None = None) -> Recognizer:
    """An artifact by its folder `path` or by its name; `quantization` is one of its precisions."""
    return Recognizer(VoxtralAsr(path or model, quantization), lambda result: result.text)


if __name__ == "__main__":
    for text in load_model(sys.argv[1]).recognize([*sys.argv[2:]]):
        print(text)
