"""Methods that look at activations, tried on the tiny checkpoint by bench/quant.py: none of them is shipped.

Each writes other weights into a copy of an artifact of the same shapes. Statistics are those of the embedded
calibration clips, of every linear layer's inputs x [rows, K]: their second moments x^T x / rows and mean magnitudes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np
import onnx
import torch

from voxtral_onnx.exporter.calibrate import calibrate, embedded_recordings
from voxtral_onnx.exporter.checkpoint import Checkpoint
from voxtral_onnx.exporter.layerwise import TABLE, Layerwise
from voxtral_onnx.quant.blocks import Blocks, dequantize_blockwise, quantize_blockwise
from voxtral_onnx.quant.methods import METHODS, as_float16, invert
from voxtral_onnx.quant.packing import pack
from voxtral_onnx.quant.recipe import Rule

RULE = Rule("*", 4, 32, "refit_asymmetric")
DAMPING = 0.01  # of the mean diagonal, added to second moments before they are inverted; GPTQ's own
EXPONENTS = np.arange(0, 1.01, 0.1)  # of activation-aware scaling
SHARES = (1.0, 1.08, 0.95, 0.89, 0.82, 0.75)  # of a block's range


@dataclass(frozen=True, slots=True)
class Inputs:
    """Statistics of one linear layer's inputs."""

    moments: np.ndarray  # float64 [K, K]
    magnitudes: np.ndarray  # float64 [K]


def observe(checkpoint: Checkpoint) -> dict[str, Inputs]:
    """Statistics of every linear layer, by module name."""
    sums: dict[str, list] = {}

    def see(name: str, x: torch.Tensor) -> None:
        x = x.double()
        new = [len(x), (x.T @ x).numpy(), x.abs().sum(0).numpy()]
        sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)] if name in sums else new

    clips = calibrate(Layerwise(checkpoint), embedded_recordings())
    model = Layerwise(checkpoint, observe=see)
    for clip in clips:
        model.decode(clip.input_ids, model.encode(clip.input_features)[: len(clip.input_ids)])
    return {name: Inputs(moments / rows, magnitudes / rows) for name, (rows, moments, magnitudes) in sums.items()}


def write_artifacts(checkpoint: Checkpoint, base: Path) -> dict[Path, dict[str, float]]:
    """Copies of an artifact that RULE has quantised, with the weights of each calibrated method.

    Returns for each copy the relative error of its weights, the root mean square over tensors, and the method's seconds
    for a gigabyte of bfloat16 weights of these shapes, without those of the calibration.
    """
    inputs, written = observe(checkpoint), {}
    linears = _linears(inputs)
    num_bytes = sum(checkpoint.tensors[f"{name}.weight"].num_bytes for name in linears)
    for label, method in {"column importance": weigh, "activation-aware scaling": scale, "GPTQ": compensate}.items():
        folder = base.with_name(f"{label}, refit_asymmetric 4 bits, blocks of 32")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        weights = {name: np.array(tensor.rows()) for name, tensor in checkpoint.tensors.items()}
        began = process_time()
        arrays = method(weights, inputs)
        seconds = process_time() - began
        errors = [_relative_error(name, arrays, weights[f"{name}.weight"]) for name in linears]
        _overwrite(folder, arrays)
        written[folder] = {
            "error_tiny": float(f"{np.sqrt(np.mean(np.square(errors))):.4g}"),
            "seconds_per_gb": float(f"{seconds / num_bytes * 1e9:.4g}"),
        }
    return written


def _relative_error(name: str, arrays: dict[str, np.ndarray], weight: np.ndarray) -> float:
    """Of a layer's codes, against the weights that they stand for: the scaled ones, where a method scales."""
    blocks = Blocks(arrays[f"{name}.weight"], arrays[f"{name}.scales"], arrays[f"{name}.zero_points"])
    back = dequantize_blockwise(blocks, RULE, weight.shape[1])
    return float(np.linalg.norm(back - weight) / np.linalg.norm(weight))


def _overwrite(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write initializers where they stand in the data files."""
    for path in (folder / "onnx").glob("*coder*.onnx"):
        for initializer in onnx.load(path, load_external_data=False).graph.initializer:
            if initializer.data_location != onnx.TensorProto.EXTERNAL or initializer.name not in arrays:
                continue
            place = {entry.key: entry.value for entry in initializer.external_data}
            content = np.ascontiguousarray(arrays.pop(initializer.name)).tobytes()
            assert len(content) == int(place["length"]), initializer.name
            with (path.parent / place["location"]).open("r+b") as file:
                file.seek(int(place["offset"]))
                file.write(content)
    assert not arrays, f"no such initializers: {list(arrays)}"


def _linears(inputs: dict[str, Inputs]) -> list[str]:
    return [name for name in inputs if name != TABLE]


def _arrays(name: str, blocks: Blocks) -> dict[str, np.ndarray]:
    assert blocks.zero_points is not None
    return {f"{name}.weight": blocks.packed, f"{name}.scales": blocks.scales, f"{name}.zero_points": blocks.zero_points}


def weigh(weights: dict[str, np.ndarray], inputs: dict[str, Inputs]) -> dict[str, np.ndarray]:
    """Refits whose squared errors are weighted by the columns' mean square inputs. Source: llama.cpp's imatrix."""
    arrays = {}
    for name in _linears(inputs):
        importance = np.diag(inputs[name].moments).astype(np.float32)
        arrays |= _arrays(name, _weighted_fit(weights[f"{name}.weight"], importance))
    return arrays


def _weighted_fit(weight: np.ndarray, importance: np.ndarray) -> Blocks:
    middle = 1 << (RULE.bits - 1)
    x = weight.reshape(len(weight), -1, RULE.block_size)
    w = importance.reshape(-1, RULE.block_size)
    w = w / w.mean(-1, keepdims=True)
    high, low = np.maximum(x.max(-1), 0), np.minimum(x.min(-1), 0)
    sum_w, sum_x = w.sum(-1), (w * x).sum(-1)
    best: list[np.ndarray] = []
    for share in SHARES:
        d = as_float16(share * (high - low) / (2 * middle - 1))
        z = np.clip(np.rint(-share * low * invert(d)), 0, 2 * middle - 1) - middle
        for _ in range(2):
            q = np.clip(np.rint(x * invert(d)[..., None] + z[..., None]), -middle, middle - 1)
            sum_q, sum_qx, sum_qq = (w * q).sum(-1), (w * q * x).sum(-1), (w * q * q).sum(-1)
            slope = (sum_w * sum_qx - sum_q * sum_x) * invert(sum_w * sum_qq - sum_q * sum_q)
            z = np.clip(np.rint((sum_q - sum_x * invert(slope)) / sum_w), -middle, middle - 1)
            cross, square = sum_qx - z * sum_x, sum_qq - z * (2 * sum_q - sum_w * z)
            d = as_float16(cross * invert(square))
            found = [d * (2 * cross - d * square), d, z]
            better = found[0] > best[0] if best else np.ones_like(d, bool)
            best = [np.where(better, new, old) for new, old in zip(found, best or found, strict=True)]
    _, d, z = best
    z += middle
    codes = np.clip(np.rint(x * invert(d)[..., None] + z[..., None]), 0, 2 * middle - 1)
    return Blocks(pack(codes.astype(np.uint8), RULE.bits), d, pack(z.astype(np.uint8), RULE.bits))


def compensate(weights: dict[str, np.ndarray], inputs: dict[str, Inputs]) -> dict[str, np.ndarray]:
    """Column by column, what rounding did is made up for by the columns not yet rounded. Source: arXiv 2210.17323."""
    arrays = {}
    for name in _linears(inputs):
        weight, moments = weights[f"{name}.weight"].astype(np.float64), inputs[name].moments
        width, size, top = len(moments), RULE.block_size, (1 << RULE.bits) - 1
        damped = moments + DAMPING * np.mean(np.diag(moments)) * np.eye(width)
        upper = np.linalg.cholesky(np.linalg.inv(damped)).T
        codes, scales, zero_points = np.empty(weight.shape, np.uint8), [], []
        for start in range(0, width, size):
            block = np.ascontiguousarray(weight[:, None, start : start + size].astype(np.float32))
            d, z = (array[:, 0] for array in METHODS[RULE.method].choose(block, RULE.bits) if array is not None)
            scales.append(d)
            zero_points.append(z)
            for column in range(start, start + size):
                code = np.clip(np.rint(weight[:, column] * invert(d) + z), 0, top)
                codes[:, column] = code
                error = (weight[:, column] - (code - z) * d) / upper[column, column]
                weight[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
        packed = pack(codes.reshape(len(codes), -1, size), RULE.bits)
        packed_zeros = pack(np.stack(zero_points, 1).astype(np.uint8), RULE.bits)
        arrays |= _arrays(name, Blocks(packed, np.stack(scales, 1), packed_zeros))
    return arrays


def scale(weights: dict[str, np.ndarray], inputs: dict[str, Inputs]) -> dict[str, np.ndarray]:
    """Columns with large inputs are scaled up before rounding, what feeds them down. Source: arXiv 2306.00978.

    Exact in real arithmetic: norms feed q, k, v and gate, up; rows of up feed down; rows of v feed o, where query heads
    that share values share scales.
    """
    kept = set(weights)
    for attention in sorted({name.removesuffix(".q_proj") for name in inputs if name.endswith(".q_proj")}):
        layer = attention.removesuffix(".self_attn")
        mlp, v_rows = f"{layer}.mlp", len(weights[f"{attention}.v_proj.weight"])
        feeders = [
            (f"{layer}.input_layernorm", [f"{attention}.{part}_proj" for part in "qkv"]),
            (f"{layer}.post_attention_layernorm", [f"{mlp}.gate_proj", f"{mlp}.up_proj"]),
            (f"{mlp}.up_proj", [f"{mlp}.down_proj"]),
            (f"{attention}.v_proj", [f"{attention}.o_proj"]),
        ]
        for feeder, fed in feeders:
            magnitudes, spread = inputs[fed[0]].magnitudes, _same
            if feeder.endswith("v_proj"):
                heads = 2 if "language_model" in layer else 6  # key-value heads of tiny
                groups = magnitudes.reshape(heads, -1, v_rows // heads)
                magnitudes, spread = groups.mean(1).reshape(-1), partial(_repeat, heads=heads, times=groups.shape[1])
            factors = _best_factors([weights[f"{name}.weight"] for name in fed], inputs[fed[0]], magnitudes, spread)
            for name in fed:
                weights[f"{name}.weight"] *= spread(factors)
            for name in {f"{feeder}.weight", f"{feeder}.bias"} & kept:
                weights[name] = (weights[name].T / factors).T
    arrays = {name: array for name, array in weights.items() if "layernorm" in name or name.endswith("v_proj.bias")}
    for name in _linears(inputs):
        arrays |= _arrays(name, quantize_blockwise(weights[f"{name}.weight"], RULE, name))
    return arrays


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _repeat(values: np.ndarray, heads: int, times: int) -> np.ndarray:
    return np.repeat(values.reshape(heads, 1, -1), times, 1).reshape(-1)


def _best_factors(
    matrices: Sequence[np.ndarray],
    inputs: Inputs,
    magnitudes: np.ndarray,
    spread: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The power of the inputs' magnitudes that disturbs the outputs least."""

    def loss(factors: np.ndarray) -> float:
        total = 0.0
        for weight in matrices:
            scaled = weight * spread(factors)
            back = dequantize_blockwise(quantize_blockwise(scaled, RULE), RULE, weight.shape[1])
            change = back / spread(factors) - weight
            total += float(((change @ inputs.moments) * change).sum())
        return total

    tried = [np.maximum(magnitudes, 1e-4) ** exponent for exponent in EXPONENTS]
    tried = [(factors / np.sqrt(factors.max() * factors.min())).astype(np.float32) for factors in tried]
    return min(tried, key=loss)
