"""The cases of quant.py and frontier.py: a recipe each, its errors in weights, and in words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import wer

from voxtral_onnx.exporter.checkpoint.open import Checkpoint
from voxtral_onnx.exporter.checkpoint.tensors import Tensor
from voxtral_onnx.quant.blocks import dequantize_blockwise, quantize_blockwise
from voxtral_onnx.quant.recipe import Recipe, Rule, load_recipe
from voxtral_onnx.verification.evaluation.rates import SEED, interval, resample_rates

TABLE = "language_model.embed_tokens"
SLICE_ROWS, COLUMNS = 170, 3072  # shape of the slices that the exporter quantises


@dataclass(frozen=True, slots=True)
class Case:
    """An artifact to measure: a shipped recipe by its name, or rules."""

    name: str
    rules: tuple[tuple[str, int, int, str], ...] = ()  # tensors, bits, block_size, method

    def recipe(self, folder: Path) -> str:
        """Return a shipped recipe's name, or write the rules to a file and return its path."""
        if not self.rules:
            return self.name
        lines = ["accuracy_level = 4"]
        for tensors, bits, block_size, method in self.rules:
            lines += [
                "[[rules]]",
                f'tensors = "{tensors}"',
                f"bits = {bits}",
                f"block_size = {block_size}",
            ]
            lines += [f'method = "{method}"']
        path = folder / f"{self.name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return str(path)


def relative_error(weight: np.ndarray, rule: Rule) -> float:
    """Return the root mean square of a rule's rounding errors, divided by that of the weights."""
    back = dequantize_blockwise(quantize_blockwise(weight, rule), rule, weight.shape[1])
    return float(np.linalg.norm(back - weight) / np.linalg.norm(weight))


def tiny_error(recipe: Recipe, checkpoint: Checkpoint) -> float:
    """Return the relative rounding error on tiny's weights, the root mean square over tensors."""
    errors = [
        relative_error(tensor.rows(), rule) if rule else 0.0
        for tensor, rule in _rules_of(recipe, checkpoint).values()
    ]
    return float(np.sqrt(np.mean(np.square(errors))))


def _rules_of(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, tuple[Tensor, Rule | None]]:
    """Return each linear layer's weight and rule."""
    tensors = {name.removesuffix(".weight"): tensor for name, tensor in checkpoint.tensors.items()}
    return {
        name: (tensor, recipe.rule_for(name))
        for name, tensor in tensors.items()
        if is_linear(name, tensor.shape)
    }


def weight_errors(recipe: str, checkpoint: Checkpoint) -> dict[str, float]:
    """Return the relative rounding errors of a recipe, and its seconds per gigabyte.

    If one rule holds for all layers, its errors on random weights and its speed are measured too.
    """
    recipe_ = load_recipe(recipe)
    found = {"error_tiny": tiny_error(recipe_, checkpoint)}
    rules = _rules_of(recipe_, checkpoint)
    layers = {rule for name, (_, rule) in rules.items() if name != TABLE}
    if len(layers) == 1:
        (rule,) = layers
        if rule is not None:
            found |= {
                f"error_{name}": relative_error(weight, rule)
                for name, weight in random_weights().items()
            }
            found["seconds_per_gb"] = seconds_per_gb(rule)
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether recipes quantise the tensor of that name."""
    return len(shape) == 2 and ".ada_rms_norm." not in name


@cache
def random_weights() -> dict[str, np.ndarray]:
    """Return random weights of two distributions, float32 [SLICE_ROWS, COLUMNS], by name."""
    rng = np.random.default_rng(SEED)
    size = (SLICE_ROWS, COLUMNS)
    return {
        "gaussian": rng.standard_normal(size, np.float32),
        "student_t3": rng.standard_t(3, size).astype(np.float32),
    }


def seconds_per_gb(rule: Rule) -> float:
    """Return the seconds of one core for a gigabyte of bfloat16 weights, the best of seven runs."""
    weight, seconds = random_weights()["gaussian"], []
    for _ in range(7):
        began = process_time()
        quantize_blockwise(weight, rule)
        seconds.append(process_time() - began)
    return min(seconds) / (2 * weight.size) * 1e9


def words_row(clips: list[wer.Clip], texts: list[list[str]]) -> dict[str, Any]:
    """Return the word error rate of one case and its difference from float32's, in per cent.

    Args:
        clips: spoken sentences.
        texts: for each clip, float32's text and the case's.
    """
    errors, words = wer.count_word_errors(clips, texts)
    reference, rate = 100 * errors.sum(0) / words.sum()
    resampled = resample_rates(errors, words)
    return {
        "clips": len(clips),
        "words": int(words.sum()),
        "wer": round(float(rate), 3),
        "wer_interval": interval(resampled[:, 1]),
        "difference": round(float(rate - reference), 3),
        "difference_interval": interval(resampled[:, 1] - resampled[:, 0]),
    }
