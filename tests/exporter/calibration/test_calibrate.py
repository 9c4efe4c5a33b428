"""Calibration clips against what the runtime encodes and what the float model is known to write."""

import json

import numpy as np
import pytest
import soundfile
import torch
from support.commands import SAMPLES
from support.parity import assert_parity
from transformers import VoxtralRealtimeFeatureExtractor

from voxtral_onnx.assets import TINY
from voxtral_onnx.errors import AudioError
from voxtral_onnx.exporter.calibration import calibrate as calibration
from voxtral_onnx.exporter.calibration.calibrate import calibrate, embedded_recordings
from voxtral_onnx.exporter.calibration.layerwise import Layerwise
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint

STORED = {
    sample["file"]: sample
    for sample in json.loads((SAMPLES / "transcripts.json").read_text())["samples"]
}
MEL_ATOL = 5e-5  # float32 spectra summed in another order, after the logarithm of nearly nothing


@pytest.fixture(scope="module")
def model():
    return Layerwise(open_checkpoint(TINY))


def read(name):
    return soundfile.read(SAMPLES / name, dtype="float32")[0]


def test_tokens_are_those_of_decoding_one_by_one(model):
    names = ("time-flite.wav", "digits-espeak.wav")
    clips = calibrate(model, [read(name) for name in names], max_passes=20)
    for name, clip in zip(names, clips, strict=True):
        assert clip.first_generating == 38
        assert clip.input_ids[0] == model.tokens.bos
        assert (clip.input_ids[1:39] == model.tokens.streaming_pad).all()
        assert clip.input_ids[39:].tolist() == STORED[name]["ids"][:-1]
        assert clip.input_features.shape == (128, 8 * (len(clip.input_ids) + 1))


def test_few_passes_settle_most_tokens(model):
    (clip,) = calibrate(model, [read("date-hibari.wav")], max_passes=3)
    wrong = (clip.input_ids[39:] != torch.tensor(STORED["date-hibari.wav"]["ids"][:-1])).sum()
    assert 0 < wrong < 10


def test_features_are_those_of_the_padded_recording(model):
    samples = read("time-flite.wav")
    (clip,) = calibrate(model, [samples], max_passes=0)
    right = -len(samples) % 1280 + 17 * 1280
    padded = np.concatenate((np.zeros(32 * 1280), samples, np.zeros(right)))
    expected = VoxtralRealtimeFeatureExtractor()(
        padded, sampling_rate=16000, return_tensors="np"
    ).input_features[0]
    assert_parity(
        clip.input_features.numpy(),
        expected.astype(np.float32),
        atol=MEL_ATOL,
        what="input_features",
    )


def test_what_is_longer_is_cut(model, monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS", 0.4)
    clips = calibrate(model, [np.zeros(1280), np.zeros(9000), np.zeros(5)], max_passes=0)
    # 5120 of the 6400 samples are left
    assert [len(clip.input_ids) + 1 - 49 for clip in clips] == [1, 4]


def test_embedded_recordings_are_those_of_the_files():
    recordings = embedded_recordings()
    assert 28 < sum(map(len, recordings)) / 16000 <= calibration.SECONDS
    for name, samples in zip(calibration.EMBEDDED, recordings, strict=True):
        assert_parity(samples, read(name), atol=0, what=name)


@pytest.mark.parametrize(
    "recordings", [[], [np.zeros(0)], [np.array([0.0, np.nan])], [np.zeros((2, 2))]]
)
def test_no_sound(model, recordings):
    with pytest.raises(AudioError, match="calibration: "):
        calibrate(model, recordings)
