"""The log-mel front end as an ONNX graph, so that no host needs a second implementation of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...config import AudioConfig
from ...manifest import TensorSpec

IR_VERSION, OPSET = 10, 23
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
    bank = mel_filters(audio.sample_rate, audio.n_fft, audio.n_mels).T  # [n_mels, n_bins]
    constants = {
        name: ir.Value(name=name, const_value=ir.tensor(np.asarray(values), name=name))
        for name, values in {
            "channel_axis": np.array([1], np.int64),
            "fourier": fourier_rows(audio.n_fft),
            "filters": np.concatenate((bank, bank), 1),
            "floor": np.float32(1e-10),
            "to_log10": np.float32(1 / np.log(10)),
            "lowest": np.float32(audio.global_log_mel_max - 8),
            "four": np.float32(4),
        }.items()
    }

    # Add the nodes, each of which reads the one before it
    samples, output = _value(INPUT), _value(output_spec(audio))
    nodes: list[ir.Node] = []

    def add(operator: str, *inputs: ir.Value, **attributes: list[int]) -> ir.Value:
        node = ir.node(operator, inputs, attributes, name=operator.lower() + f"_{len(nodes)}")
        node.outputs[0].name = node.name
        nodes.append(node)
        return node.outputs[0]

    x = add("Unsqueeze", samples, constants["channel_axis"])
    x = add("Conv", x, constants["fourier"], strides=[audio.hop_length])
    x = add("MatMul", constants["filters"], add("Mul", x, x))
    x = add("Log", add("Max", x, constants["floor"]))
    x = add("Max", add("Mul", x, constants["to_log10"]), constants["lowest"])
    x = add("Add", x, constants["four"])
    nodes.append(ir.node("Div", [x, constants["four"]], outputs=[output], name=output.name))

    graph = ir.Graph(
        [samples],
        [output],
        nodes=nodes,
        initializers=tuple(constants.values()),
        opset_imports={"": OPSET},
        name="mel",
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="voxtral-onnx")


def _value(spec: TensorSpec) -> ir.Value:
    dtype = ir.DataType.from_numpy(np.dtype(spec.dtype))
    return ir.Value(name=spec.name, shape=ir.Shape(spec.shape), type=ir.TensorType(dtype))


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
