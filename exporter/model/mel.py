"""The log-mel front end as an ONNX graph, so that no host needs a second implementation of it."""

# The body of an onnxscript function is a graph, not Python: its operators are typed for arrays
# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import FLOAT, opset23, script

from ...config import AudioConfig
from ...manifest import TensorSpec

# The graph does not pad: samples = hop_length * (frames - 1) + n_fft
INPUT = TensorSpec("audio", "float32", ("batch", "samples"))


def output_spec(audio: AudioConfig) -> TensorSpec:
    """Return the spec of the graph's only output."""
    return TensorSpec("input_features", "float32", ("batch", audio.n_mels, "frames"))


def mel_model(audio: AudioConfig) -> ir.Model:
    """Return the graph from samples [batch, samples] to log-mel [batch, n_mels, frames], float32.

    The spectrum is a convolution with the rows of the windowed Fourier matrix, whose error is 4e-6;
    the STFT operator's is 1e-3, and it takes 18 times as long. The filter bank is doubled, so that
    one product filters the squares and adds those of the real and the imaginary part. Source of the
    constants: transformers' `feature_extraction_voxtral_realtime.py`.
    """
    # Make the constants
    fourier = onnx.numpy_helper.from_array(fourier_rows(audio.n_fft), "fourier")
    bank = mel_filters(audio.sample_rate, audio.n_fft, audio.n_mels).T  # [n_mels, n_bins]
    doubled = onnx.numpy_helper.from_array(np.concatenate((bank, bank), 1), "filters")
    hop = audio.hop_length
    floor = onnx.numpy_helper.from_array(np.float32(1e-10), "floor")
    to_log10 = onnx.numpy_helper.from_array(np.float32(1 / np.log(10)), "to_log10")
    lowest = onnx.numpy_helper.from_array(np.float32(audio.global_log_mel_max - 8), "lowest")
    four = onnx.numpy_helper.from_array(np.float32(4), "four")
    channel_axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "channel_axis")

    @script()
    def mel(audio: FLOAT["batch", "samples"]):  # noqa: F821, UP037
        channel = opset23.Unsqueeze(audio, opset23.Constant(value=channel_axis))
        spectrum = opset23.Conv(channel, opset23.Constant(value=fourier), strides=[hop])
        power = opset23.MatMul(opset23.Constant(value=doubled), opset23.Mul(spectrum, spectrum))
        log = opset23.Log(opset23.Max(power, opset23.Constant(value=floor)))
        log10 = opset23.Max(
            opset23.Mul(log, opset23.Constant(value=to_log10)), opset23.Constant(value=lowest)
        )
        shift = opset23.Constant(value=four)
        input_features = opset23.Div(opset23.Add(log10, shift), shift)
        return input_features

    # Declare the input and the output
    model = ir.from_proto(mel.to_model_proto(producer_name="voxtral-onnx"))
    for value, spec in (
        (model.graph.inputs[0], INPUT),
        (model.graph.outputs[0], output_spec(audio)),
    ):
        value.name, value.shape = spec.name, ir.Shape(spec.shape)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def fourier_rows(n_fft: int) -> np.ndarray:
    """Return the Fourier matrix times a periodic Hann window, float32 [n_fft + 2, 1, n_fft].

    Real rows come first, then imaginary ones.
    """
    samples = np.arange(n_fft)
    window = 0.5 * (1 - np.cos(2 * np.pi * samples / n_fft))
    angles = 2 * np.pi * np.arange(n_fft // 2 + 1)[:, None] * samples / n_fft
    return np.concatenate((np.cos(angles) * window, -np.sin(angles) * window))[:, None].astype(
        np.float32
    )


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Return triangular filters on Slaney's mel scale with Slaney's area norm.

    They are float32 [n_fft / 2 + 1, n_mels]. Source: Slaney's Auditory Toolbox, whose scale is
    linear below 1000 Hz (15 mel) and logarithmic with step 27 / ln 6.4 above.
    """
    mel_of_break, step = 15.0, 27.0 / np.log(6.4)
    highest = mel_of_break + step * np.log(sample_rate / 2 / 1000)
    mels = np.linspace(0, highest, n_mels + 2)
    edges = np.where(
        mels < mel_of_break, mels * 200 / 3, 1000 * np.exp((mels - mel_of_break) / step)
    )
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    # [n_bins, n_mels + 2], by left edge
    slopes = (edges - bins[:, None]) / np.append(np.diff(edges), 1)[None]
    rising = -slopes[:, :-2]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * 2 / (edges[2:] - edges[:-2])).astype(np.float32)
