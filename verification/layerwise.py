"""The model in PyTorch, one layer's weights in memory at a time.

The modules are those that export traces, run here stage by stage over whole recordings: a stage is
built, loaded by the exporter's own weight recipes, applied to the activations of all recordings and
dropped, so the 4B model needs the memory of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..config import TransformerConfig, VoxtralConfig
from ..exporter.binding.recipes import weight_recipes
from ..exporter.checkpoint.open import Checkpoint
from ..exporter.checkpoint.tekken import read_tekken
from ..exporter.model.layers import Layer, Positions, RMSNorm
from ..exporter.model.linear import Table, table
from ..exporter.model.parameters import (
    PartFactory,
    Parts,
    encoder_parts,
    language_model_parts,
    parts_within,
)
from ..exporter.model.voxtral import Embedder, Projector
from ..quant.recipe import FLOAT
from .subgraphs import EMBEDDING, HEAD, PROJECTOR, STEM

# Positions in one call of a layer, which bounds the memory of attention scores and MLP activations
ROWS = 512
TABLE_ROWS = 4096  # rows of the tied table in memory at a time

Module = TypeVar("Module", bound=nn.Module)
Stage = Callable[[Tensor], Tensor]


class Layerwise:
    """A checkpoint's model as a sequence of stages, each loaded when it runs and then dropped.

    Activations are float32 [rows, width] of one whole recording, from position 0 on:

        audio_tower.embedder        [n_mels, frames] -> [frames / 2, encoder.hidden_size]
        audio_tower.layers.{i}      the same shape
        multi_modal_projector       -> [tokens, decoder.hidden_size]; the encoder's final norm
                                    included
        language_model.layers.{i}   the same shape
        language_model.norm         the same shape, the input of the head
    """

    def __init__(self, checkpoint: Checkpoint):
        """Prepare the model, at the tokenizer's delay, without reading any weights."""
        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.build = PartFactory("float32", FLOAT)
        _, streaming = read_tekken(
            checkpoint.tokenizer, checkpoint.config, checkpoint.card.trained_delays_ms
        )
        self.num_delay_tokens = streaming.default_delay_tokens

    @cached_property
    def parts(self) -> Parts:
        """Return the parts of encoder and decoder, without the sampling."""
        build, config = self.build, self.config
        return encoder_parts(build, config) | language_model_parts(build, config)

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return one stage's outputs for several recordings, loading its weights once."""
        stage = self._stage(name)
        return [stage(x) for x in inputs]

    def _stage(self, name: str) -> Stage:
        encoder, decoder = self.config.encoder, self.config.decoder
        if name == STEM:
            return partial(_run_stem, self.load(name, Embedder(self.parts)))
        if name == PROJECTOR:
            joined = encoder.hidden_size * encoder.downsample_factor
            norm = self.norm("audio_tower.norm", encoder)
            projector = self.load(name, Projector(self.parts))
            return lambda x: projector(norm(x, None)[0].reshape(-1, joined))
        if name == HEAD:
            norm = self.norm(name, decoder)
            return lambda x: norm(x, None)[0]
        stack = encoder if name.startswith("audio_tower.") else decoder
        layer = self.load(name, Layer(self.parts, name, stack))
        return partial(_run_layer, layer, stack, torch.tensor([self.num_delay_tokens]))

    def norm(self, name: str, stack: TransformerConfig) -> RMSNorm:
        """Load the final norm of a transformer."""
        return self.load(name, RMSNorm(self.parts[name], stack.rms_norm_eps))

    def load(self, name: str, module: Module) -> Module:
        """Load the weights of a module, given by its name in the model, and return it.

        A subclass with another source of weights overrides this method.
        """
        fill(module, parts_within(self.parts, name), self.checkpoint, name)
        return module

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the rows [seq, hidden_size] of the tied table for int64 ids [seq]."""
        unique, places = input_ids.unique(return_inverse=True)
        return self.table([(row, row + 1) for row in unique.tolist()]).embed(places)

    def logits(self, hidden: Tensor) -> Iterator[Tensor]:
        """Yield the logits [rows, ids] of final hidden states [rows, hidden_size].

        They come in slices of the vocabulary, in order.
        """
        vocab_size = self.config.decoder.vocab_size
        for start in range(0, vocab_size, TABLE_ROWS):
            yield self.table([(start, min(start + TABLE_ROWS, vocab_size))]).logits(hidden)

    def table(self, ranges: Sequence[tuple[int, int]]) -> Table:
        """Load the tied table's rows of some ranges [start, stop), one range after the other.

        A subclass with another source of weights overrides this method.
        """
        made = self.empty_table(sum(stop - start for start, stop in ranges))
        sink = _Parameters(made, EMBEDDING)
        for recipe in weight_recipes(parts_within(self.parts, EMBEDDING), self.checkpoint):
            at = 0
            for start, stop in ranges:
                for name, values in recipe.make(start, stop).items():
                    sink.write(name, values, at * (values.size // (stop - start)))
                at += stop - start
        return made

    def empty_table(self, num_rows: int) -> Table:
        """Return a module for some rows of the tied table, without their weights."""
        return table(self.build.table(EMBEDDING, num_rows, self.config.decoder.hidden_size))


def encoder_stages(config: VoxtralConfig) -> tuple[str, ...]:
    """Return the names of the stages from log-mel frames to audio embeddings, in order."""
    layers = (f"audio_tower.layers.{i}" for i in range(config.encoder.num_hidden_layers))
    return (STEM, *layers, PROJECTOR)


def decoder_stages(config: VoxtralConfig) -> tuple[str, ...]:
    """Return the names of the stages from summed embeddings to final hidden states, in order."""
    return (
        *(f"language_model.layers.{i}" for i in range(config.decoder.num_hidden_layers)),
        HEAD,
    )


def fill(module: nn.Module, parts: Parts, checkpoint: Checkpoint, name: str = "") -> None:
    """Load the checkpoint's weights into a module of floats, given with its parts and its name."""
    sink = _Parameters(module, name)
    with ThreadPoolExecutor() as pool:
        for recipe in weight_recipes(parts, checkpoint):
            recipe.run(pool, [sink])
            for tensor in recipe.tensors:
                tensor.release()


def rotation(stack: TransformerConfig, start: int, rows: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles at the absolute positions from `start` on.

    Both are [1, rows, head_dim / 2], computed in float64 and rounded to float32.
    """
    frequencies = stack.rope_theta ** (
        -torch.arange(0, stack.head_dim, 2, dtype=torch.float64) / stack.head_dim
    )
    angles = torch.arange(start, start + rows, dtype=torch.float64)[None, :, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def _run_stem(embedder: Embedder, input_features: Tensor) -> Tensor:
    conv1_state = torch.zeros(1, input_features.shape[0], 2)
    conv2_state = torch.zeros(1, embedder.conv2.weight.shape[1], 1)
    parts = []
    for part in input_features[None].split(2 * ROWS, -1):
        x, conv1_state = embedder.conv1(conv1_state, part)
        x, conv2_state = embedder.conv2(conv2_state, x)
        parts.append(x[0].T)
    return torch.cat(parts)


def _run_layer(
    layer: Layer, stack: TransformerConfig, num_delay_tokens: Tensor, x: Tensor
) -> Tensor:
    """Run a layer over all positions, `ROWS` at a time.

    The cache of a call has the earlier keys and values inside the window, then room for its own.
    """
    key = value = torch.zeros(1, stack.num_key_value_heads, 0, stack.head_dim)
    parts = []
    for start in range(0, len(x), ROWS):
        part = x[None, start : start + ROWS]
        rows, seen = part.shape[1], min(start, stack.sliding_window - 1)
        past = [
            F.pad(rows_before[:, :, rows_before.shape[2] - seen :], (0, 0, 0, rows))
            for rows_before in (key, value)
        ]
        last = torch.tensor([seen + rows - 1], dtype=torch.int32)
        capacity = torch.tensor(seen + rows)
        at = Positions(*rotation(stack, start, rows), last, capacity)
        residual, branch, key, value = layer(part, None, at, *past, num_delay_tokens)
        parts.append((residual + branch)[0])
    return torch.cat(parts)


class _Parameters:
    """Parameters of a module that weight recipes write into, in the place of data files."""

    def __init__(self, module: nn.Module, name: str):
        prefix = name + "." if name else ""
        self.arrays = {
            prefix + key: value.numpy().reshape(-1) for key, value in module.state_dict().items()
        }

    def write(self, name: str, values: np.ndarray, at: int) -> None:
        """Write values into the parameter `name` from its element `at` on, in its own type."""
        self.arrays[name][at : at + values.size] = values.reshape(-1)
