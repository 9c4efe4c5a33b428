"""Rounding with error feedback, for frontier.py: it needs the second moments of a layer's inputs.

The error of a rounded weight is made up for by those not rounded yet, as far as their inputs go
together (GPTQ, Frantar et al. 2022, https://arxiv.org/abs/2210.17323). Here it goes no further than
a band of columns, so that time and memory grow with the weights, not with the square of a layer's
inputs. The grid of each block is fitted first, as `refit_asymmetric` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from quant_clips import Replay, load_transcriber

from voxtral_onnx.quant.blocks import Blocks
from voxtral_onnx.quant.methods import METHODS, invert
from voxtral_onnx.quant.packing import pack
from voxtral_onnx.quant.recipe import Rule
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.device import cpu, session

BAND = 256  # columns; more than a block, and a third of *tiny*'s widest layer
STEP = 32  # columns whose errors are added to the rest of the band at once
DAMPING = 0.01  # of the mean second moment, added to each input's own


def round_with_feedback(
    weight: np.ndarray, rule: Rule, moments: np.ndarray, band: int = BAND
) -> Blocks:
    """Quantise a weight [N, K] whose inputs have the second moments [K, K]."""
    # Choose the grids
    rows, columns = weight.shape
    blocks = weight.reshape(rows, -1, rule.block_size)
    scales, zeros = METHODS["refit_asymmetric"].choose(blocks, rule.bits)
    assert zeros is not None
    inverse, top = invert(scales), np.float32((1 << rule.bits) - 1)

    # Round column by column, and pass errors on
    codes = np.empty((rows, columns), np.uint8)
    for first in range(0, columns, band):
        left = weight[:, first : first + band].T.copy()  # [columns of the band, N]
        factor = feedback_factor(moments[first : first + band, first : first + band])
        for begin in range(0, len(left), STEP):
            end = min(begin + STEP, len(left))
            errors = np.empty((end - begin, rows), np.float32)
            for i in range(begin, end):
                block = (first + i) // rule.block_size
                code = np.rint(left[i] * inverse[:, block] + zeros[:, block]).clip(0, top)
                codes[:, first + i] = code
                error = left[i] - (code - zeros[:, block]) * scales[:, block]
                errors[i - begin] = error / factor[i, i]
                left[i:end] -= factor[i, i:end, None] * errors[i - begin]
            left[end:] -= factor[begin:end, end:].T @ errors
    packed = pack(codes.reshape(blocks.shape), rule.bits)
    return Blocks(packed, scales, pack(zeros.astype(np.uint8), rule.bits))


def feedback_factor(moments: np.ndarray) -> np.ndarray:
    """Return the upper Cholesky factor of the inverse of damped second moments."""
    damped = moments + np.eye(len(moments)) * (DAMPING * np.trace(moments) / len(moments) + 1e-12)
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def second_moments(artifact: Path, recordings: list[Path]) -> dict[str, np.ndarray]:
    """Return the second moments of each layer's inputs, by the weight's name.

    To be called in a process of its own, because it makes the graphs of a float32 artifact return
    these inputs as well.

    Args:
        artifact: of the tiny checkpoint in float32.
        recordings: that are transcribed.
    """
    # Make sessions that return the inputs, and calls that add them up
    inputs_of: dict[int, dict[str, str]] = {}  # by session: each weight's input
    sums, counts = dict[str, Any](), dict[str, int]()

    def open_session(self: cpu.Cpu, path: str | bytes, options: Any, *, captures: bool) -> Any:
        assert isinstance(path, str)
        model = onnx.load(path, load_external_data=False)
        inputs = {
            node.input[1]: node.input[0]
            for node in model.graph.node
            if node.op_type == "MatMul" and node.input[1].endswith(".weight")
        }
        for name in sorted(set(inputs.values()) - {each.name for each in model.graph.output}):
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        copy = Path(path).with_suffix(".inputs")
        onnx.save(model, copy)
        found = plain_open(self, str(copy), options, captures=captures)
        copy.unlink()
        inputs_of[id(found)] = inputs
        return found

    def run(self: cpu.HostBinding, feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        self._io.clear_binding_outputs()
        for present, value in self._values.items():
            self._io.bind_ortvalue_output(present, value)
        names = sorted(set((inputs := inputs_of[id(self._session)]).values()))
        for name in (*names, fetch):
            self._io.bind_output(name, "cpu")
        for name, array in feeds.items():
            self._io.bind_cpu_input(name, array)
        self._session.run_with_iobinding(self._io)
        *values, output = [each.numpy() for each in self._io.get_outputs()[-len(names) - 1 :]]
        by_name = dict(zip(names, values, strict=True))
        for weight, name in inputs.items():
            flat = by_name[name].reshape(-1, by_name[name].shape[-1]).astype(np.float64)
            sums[weight] = sums.get(weight, 0) + flat.T @ flat
            counts[weight] = counts.get(weight, 0) + len(flat)
        return output

    # Put these in the place of the package's own, and transcribe
    plain_open, cpu.Cpu.open = cpu.Cpu.open, open_session
    cpu.HostBinding.run, session._check_contract = run, lambda *arguments: None
    transcriber = load_transcriber(artifact)
    for path in recordings:
        samples = np.concatenate(list(open_audio(path, transcriber.sample_rate).blocks()))
        Replay(transcriber, samples).write()
    return {name: total / counts[name] for name, total in sums.items()}
