"""The mel graph against published vectors and other implementations.

These are transformers' feature extractor and a float64 spectrum.
"""

import numpy as np
import onnxruntime
import pytest
from support.parity import assert_parity
from transformers import VoxtralRealtimeFeatureExtractor

from voxtral_onnx.config import AudioConfig
from voxtral_onnx.exporter.model.mel import mel_filters, mel_model

AUDIO = AudioConfig(16000, 400, 160, 128, 1.5, 8)
ATOL = 2e-5  # float32 spectrum of a full-scale sound, after the logarithm
LOOK_BACK, LOOK_AHEAD = 200, 40


@pytest.fixture(scope="module")
def mel():
    import onnx_ir

    session = onnxruntime.InferenceSession(onnx_ir.to_proto(mel_model(AUDIO)).SerializeToString())

    def run(samples):
        """Frames of samples padded as the runtime pads them: [n_mels, frames]."""
        padded = np.concatenate((np.zeros(LOOK_BACK), samples, np.zeros(LOOK_AHEAD))).astype(
            np.float32
        )
        return np.asarray(session.run(None, {"audio": padded[None]})[0])[0]

    return run


def padded(samples, delay=6):
    """Silence on both sides as in spec 3.3."""
    right = -len(samples) % 1280 + 1280 * (delay + 11)
    return np.concatenate((np.zeros(32 * 1280), samples, np.zeros(right)))


def test_published_vector(mel):
    """A sine of 1 kHz; values published with the model's front end."""
    frames = mel(padded(0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)))
    assert frames.shape == (128, 496)
    assert (frames[:, [0, 254]] == -0.625).all()
    bins = [0, 20, 40, 41, 42, 43, 44, 60, 127]
    expected = {
        256: [
            0.573474,
            0.695578,
            1.307205,
            1.216958,
            1.323947,
            1.248078,
            1.200054,
            0.580370,
            -0.052119,
        ],
        300: [-0.625, -0.625, 1.350502, 1.357819, 1.474446, 1.296470, 1.245350, -0.625, -0.625],
    }
    for frame, values in expected.items():
        assert_parity(
            frames[bins, frame], np.array(values, np.float32), atol=1e-5, what=f"frame {frame}"
        )
    assert abs(frames.sum(dtype=np.float64) + 38144.194) < 0.05


@pytest.mark.parametrize("level", [1e-4, 1e-2, 1.0, 3.0])
def test_equals_transformers(mel, level):
    rng = np.random.default_rng(0)
    samples = padded((level * rng.standard_normal(30_000)).clip(-level, level))
    expected = VoxtralRealtimeFeatureExtractor()(
        samples, sampling_rate=16000, return_tensors="np"
    ).input_features[0]
    assert_parity(mel(samples), expected.astype(np.float32), atol=ATOL, what="mel")


def test_a_frame_sees_its_window_alone(mel):
    """Frame k covers samples [160k - 200, 160k + 200)."""
    for at in (160 * 50 - 200, 160 * 50 + 199):
        samples = np.zeros(16000)
        samples[at] = 1
        heard = np.flatnonzero((mel(samples) > -0.625).any(0))
        assert set(heard) <= set(range((at - 199) // 160, (at + 200) // 160 + 1)) and len(heard)


def test_filter_bank():
    filters = mel_filters(16000, 400, 128)
    assert filters.shape == (201, 128) and (filters > 0).sum() == 394
    assert (
        abs(filters.sum(dtype=np.float64) - 3.1909855) < 1e-6
        and abs(filters.max() - 0.0416817) < 1e-7
    )
    last = [
        0.000475695,
        0.001617172,
        0.002758648,
        0.003900125,
        0.005041602,
        0.004457121,
        0.003342841,
        0.002228560,
    ]
    assert_parity(filters[191:199, 127], np.array(last, np.float32), atol=1e-8, what="last filter")
