"""Recordings as the rungs' float model hears them, against transformers' own front end."""

import shutil

import numpy as np
import onnx_ir as ir
import pytest
import soundfile
from onnx.reference import ReferenceEvaluator
from support.commands import CLIP, SAMPLES
from support.parity import assert_parity
from transformers import VoxtralRealtimeFeatureExtractor

from voxtral_onnx.errors import UsageError
from voxtral_onnx.exporter.model.mel import mel_model
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.verification.clips import open_clips, pad_samples

MEL_ATOL = 5e-5  # float32 spectra summed in another order, after the logarithm of nearly nothing


@pytest.mark.parametrize("cut", [0, 1, 1279])
def test_padding_is_the_silence_of_the_front_end(tiny_artifact, cut):
    """32 tokens before a recording; behind it the rest of a token, the delay and eleven more."""
    manifest = Manifest.read(tiny_artifact)
    samples = soundfile.read(SAMPLES / "time-flite.wav", dtype="float32")[0]
    samples = samples[: len(samples) // 1280 * 1280 - cut]
    padded = pad_samples(samples, manifest.config.audio, manifest.streaming, 6)
    mel = ReferenceEvaluator(ir.to_proto(mel_model(manifest.config.audio)))
    right = -len(samples) % 1280 + 17 * 1280
    expected = VoxtralRealtimeFeatureExtractor()(
        np.concatenate((np.zeros(32 * 1280), samples, np.zeros(right))),
        sampling_rate=16000,
        return_tensors="np",
    ).input_features[0]
    (features,) = mel.run(None, {"audio": padded[None]})
    found = np.asarray(features)[0]
    assert found.shape[1] % 8 == 0
    assert_parity(found, expected.astype(np.float32), atol=MEL_ATOL, what="input_features")


def test_the_text_beside_a_recording(tmp_path):
    shutil.copyfile(CLIP, tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes("\ufeffgrüße\n".encode())
    assert [clip.text for clip in open_clips([tmp_path / "a.wav", CLIP], 16000)] == ["grüße", None]
    (tmp_path / "a.txt").write_bytes(b"gr\xfc\xdfe")
    with pytest.raises(UsageError, match=r"a\.txt: expected UTF-8"):
        open_clips([tmp_path / "a.wav"], 16000)
