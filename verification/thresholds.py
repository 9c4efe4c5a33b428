"""Thresholds that `verify` judges by, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold: the largest value that passes, or the smallest if its name says "at least"."""

    name: str
    value: float
    why: str


OPERATOR_ERROR = Threshold(
    "operator error",
    1e-5,
    "relative L2; float32 kernels and PyTorch add in different orders and so differ by 1e-7 to "
    "1e-6; a wrong sign, pair or zero point makes 1e-2 or more",
)
GRAPH_ERROR = Threshold(
    "graph vs PyTorch (float32)",
    1e-5,
    "relative L2 of a stage's outputs, the graph's computed in float32; the worst undamaged stage "
    "of tiny, of test models and of the 4B shapes had 3e-6; damage makes 1e-3 and more",
)
SHIPPED_ERROR = Threshold(
    "graph as shipped vs PyTorch",
    5e-2,
    "relative L2 of a stage's outputs, the graph with its own types and products, and of other "
    "devices against the CPU; float16 alone makes 1e-3, products in int8 (accuracy "
    "level 4) make 1e-2 to 2e-2; an overflow of float16 is infinite",
)
MODULE_ERROR = Threshold(
    "module error",
    1e-5,
    "relative L2 of audio embeddings and logits through two random layers in float32, against "
    "transformers' own class",
)
ROUNDING_STEPS = Threshold(
    "rounding steps",
    2.0,
    "steps of a block's scale between a weight and its code, where another version wrote the "
    "artifact: rounding makes half a step, a method that clips up to two, a wrong scale or nibble "
    "more",
)
STREAM_ERROR = Threshold(
    "stream error",
    0.25,
    "relative L2 of a clip's logits, a stream as shipped against the module over the whole clip "
    "in float32: int8 and float16 make 0.01 on tiny and on random weights of full size; a wrong "
    "position or pad makes about 1",
)
EXACT_STREAM_ERROR = Threshold(
    "exact stream error", 1e-4, "stream error of an artifact that computes in float32 throughout"
)
TIE = Threshold(
    "tie",
    8.0,
    "times the noise of the logits (rms over the vocabulary): two tokens whose logits are closer "
    "may change places by rounding alone, as calls of other sizes run other kernels; in float32 "
    "the noise is 1e-6, so tokens are identical",
)
KL_DIVERGENCE = Threshold(
    "KL divergence",
    0.05,
    "nats a token, in the mean: the artifact against the float model; tiny in 4 bits has 0.003",
)
# Difference of logits between blank and the best word from which a decision counts as sure
SURE_MARGIN = 1.0
BLANK_FLIPS = Threshold(
    "blank flips",
    0,
    "sure decisions between blank and word, with a margin over 1.0 in float, that change",
)
AGREEMENT = Threshold(
    "token agreement, at least",
    0.98,
    "share of tokens that the float model samples too when it is fed the same earlier tokens",
)
CHARACTERS_LOST = Threshold(
    "characters lost",
    0.02,
    "character error rate above the float model's on the same clips; a word is about 0.01 of them",
)
FLOAT_CER = Threshold(
    "float CER",
    0.30,
    "above it the float model does not understand these clips, so the effect of quantisation on "
    "words is not judged",
)

ALL = tuple(value for value in globals().values() if isinstance(value, Threshold))
