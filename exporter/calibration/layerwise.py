"""The model in PyTorch, one layer's weights in memory at a time.

The modules are those that export traces, run here stage by stage over whole recordings: a stage is
built, loaded by the exporter's own weight recipes, applied to the activations of all recordings and
dropped, so the 4B model needs the memory of one layer. Under a quantisation recipe a stage
multiplies, in float32, by the weights that an export would store: the results show the rounding of
weights, but not that of activations (`accuracy_level`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...config import TransformerConfig, VoxtralConfig
from ...errors import ShapeError
from ...quant.recipe import FLOAT, Recipe
from ..binding.recipes import weight_recipes
from ..checkpoint.open import Checkpoint
from ..checkpoint.tekken import read_tekken
from ..model import ops
from ..model.layers import Layer, Positions, RMSNorm
from ..model.linear import (
    DequantizedTiedEmbedding,
    Linear,
    ModuleFactory,
    QuantizedLinear,
    QuantizedTiedEmbedding,
    Table,
)
from ..model.voxtral import Embedder, Projector

STEM, PROJECTOR = "audio_tower.embedder", "multi_modal_projector"
FINAL_NORM, TABLE = "language_model.norm", "language_model.embed_tokens"
# Positions in one call of a layer, which bounds the memory of attention scores and MLP activations
ROWS = 512
TABLE_ROWS = 4096  # rows of the tied table in memory at a time

Module = TypeVar("Module", bound=nn.Module)
Stage = Callable[[Tensor], Tensor]
Observer = Callable[[str, Tensor], None]


class SampledTokens:
    """Greedy decisions of the decoder at every position, accumulated over slices of logits.

    They are the same as those in the decoder graph's output `step`.

    Attributes:
        word: float64 [rows], the highest logit of any token but the blank.
        blank: float64 [rows], the blank's logit.
        log_sum: float64 [rows], log(sum(exp(logits))) of the slices so far.
        best: int64 [rows], the id that `word` belongs to.
    """

    def __init__(self, rows: int, blank_id: int):
        self.blank_id = blank_id
        self.word = torch.full((rows,), -torch.inf, dtype=torch.float64)
        self.blank, self.log_sum = self.word.clone(), self.word.clone()
        self.best = torch.zeros(rows, dtype=torch.long)

    def see(self, first: int, logits: Tensor) -> None:
        """Add the logits [rows, ids] of the ids from `first` on; slices come in order."""
        self.log_sum = torch.logaddexp(self.log_sum, logits.double().logsumexp(-1))
        at = self.blank_id - first
        if 0 <= at < logits.shape[1]:
            self.blank = logits[:, at].double()
            logits = logits.index_fill(1, torch.tensor([at]), -torch.inf)
        highest, best = logits.max(-1)
        self.best = torch.where(highest > self.word, best + first, self.best)
        self.word = torch.maximum(self.word, highest)

    @property
    def blank_margins(self) -> Tensor:
        """Return the blank's logit less the highest other one, float64 [rows]."""
        return self.blank - self.word

    @property
    def ids(self) -> Tensor:
        """Return the sampled tokens, int64 [rows]; a tie goes to the lower id."""
        is_blank = (self.blank > self.word) | (
            (self.blank == self.word) & (self.best > self.blank_id)
        )
        return torch.where(is_blank, self.blank_id, self.best)

    @property
    def logprobs(self) -> Tensor:
        """Return the log-probabilities of the sampled tokens, float64 [rows]."""
        return torch.maximum(self.word, self.blank) - self.log_sum


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

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe = FLOAT,
        *,
        num_delay_tokens: int | None = None,
        observe: Observer | None = None,
    ):
        """Prepare the model without reading any weights.

        Args:
            checkpoint: the weights, as `open_checkpoint` returns them.
            recipe: the quantisation of weights; those that no rule names stay in float.
            num_delay_tokens: the delay; by default the tokenizer's.
            observe: called with the name and the inputs [rows, in_features] of every linear layer
                that runs, the head (`language_model.embed_tokens`) included; once for every `ROWS`
                positions.
        """
        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.build, self.observe = ModuleFactory(torch.float32, recipe), observe
        self.tokens, self.streaming = read_tekken(
            checkpoint.tokenizer, checkpoint.config, checkpoint.card.trained_delays_ms
        )
        default = self.streaming.default_delay_tokens
        self.num_delay_tokens = default if num_delay_tokens is None else num_delay_tokens

    def encode(self, input_features: Tensor, keep: dict[str, Tensor] | None = None) -> Tensor:
        """Return the audio embeddings [tokens, hidden_size] of log-mel frames [n_mels, frames].

        keep: receives the input of every stage under the stage's name.

        Raises:
            ShapeError: the frames do not make up whole tokens.
        """
        audio = self.config.audio
        n_mels, frames = input_features.shape
        if n_mels != audio.n_mels or frames % audio.frames_per_token:
            raise ShapeError(
                f"input_features: expected [{audio.n_mels}, multiple of {audio.frames_per_token}], "
                f"got {list(input_features.shape)}"
            )
        return self._through(encoder_stages(self.config), input_features, keep)

    def decode(
        self, input_ids: Tensor, audio_embeds: Tensor, keep: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Return the final hidden states [seq, hidden_size] of a whole token sequence.

        Args:
            input_ids: int64 [seq].
            audio_embeds: float32 [seq, hidden_size], the audio embeddings of these positions.
            keep: receives the input of every stage under the stage's name.
        """
        x = self.embed(input_ids) + audio_embeds
        return self._through(decoder_stages(self.config), x, keep)

    def _through(self, stages: Sequence[str], x: Tensor, keep: dict[str, Tensor] | None) -> Tensor:
        for name in stages:
            if keep is not None:
                keep[name] = x
            (x,) = self.run(name, [x])
        return x

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return one stage's outputs for several recordings, loading its weights once."""
        stage = self._stage(name)
        return [stage(x) for x in inputs]

    def _stage(self, name: str) -> Stage:
        config, build = self.config, self.build
        encoder, decoder = config.encoder, config.decoder
        if name == STEM:
            return partial(
                _run_stem,
                self._load(name, Embedder(build, config.audio.n_mels, encoder.hidden_size)),
            )
        if name == PROJECTOR:
            joined = encoder.hidden_size * encoder.downsample_factor
            norm = self._load(
                "audio_tower.norm", RMSNorm(build, encoder.hidden_size, encoder.rms_norm_eps)
            )
            projector = self._load(name, Projector(build, joined, decoder.hidden_size))
            return lambda x: projector(norm(x, None)[0].reshape(-1, joined))
        if name == FINAL_NORM:
            norm = self._load(name, RMSNorm(build, decoder.hidden_size, decoder.rms_norm_eps))
            return lambda x: norm(x, None)[0]
        is_encoder = name.startswith("audio_tower.")
        stack = encoder if is_encoder else decoder
        layer = self._load(name, Layer(build, name, stack, bias=is_encoder, delay=not is_encoder))
        return partial(_run_layer, layer, stack, torch.tensor([self.num_delay_tokens]))

    def load(self, name: str, module: nn.Module) -> None:
        """Load the weights of a module, given by its name in the model.

        A subclass with another source of weights overrides this method.
        """
        fill(module, self.checkpoint, name)

    def _load(self, name: str, module: Module) -> Module:
        self.load(name, module)
        for path, part in list(module.named_modules()):
            if isinstance(part, Linear | QuantizedLinear):
                linear = part if isinstance(part, Linear) else _Dequantized(part)
                module.set_submodule(path, linear)
                if self.observe:
                    linear.register_forward_pre_hook(
                        partial(_report, self.observe, f"{name}.{path}")
                    )
        return module

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the rows [seq, hidden_size] of the tied table for int64 ids [seq]."""
        unique, places = input_ids.unique(return_inverse=True)
        return self.table([(row, row + 1) for row in unique.tolist()]).embed(places)

    def heads(self) -> Iterator[tuple[int, Stage]]:
        """Yield the head in slices of the vocabulary.

        An item is the slice's first id and a function from final hidden states [rows, hidden_size]
        to logits [rows, ids].
        """
        vocab_size = self.config.decoder.vocab_size
        for start in range(0, vocab_size, TABLE_ROWS):
            yield start, self.table([(start, min(start + TABLE_ROWS, vocab_size))]).logits

    def logits(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the logits of final hidden states [rows, hidden_size], sliced by vocabulary.

        An item is the slice's first id and its logits [rows, ids].
        """
        if self.observe:
            self.observe(TABLE, hidden)
        for start, head in self.heads():
            yield start, head(hidden)

    def table(self, ranges: Sequence[tuple[int, int]]) -> Table:
        """Load the tied table's rows of some ranges [start, stop), one range after the other.

        A subclass with another source of weights overrides this method.
        """
        hidden_size = self.config.decoder.hidden_size
        table = self.build.tied_embedding(
            TABLE, sum(stop - start for start, stop in ranges), hidden_size
        )
        sink = _Parameters(table, TABLE)
        for recipe in weight_recipes(table, self.checkpoint, TABLE):
            at = 0
            for start, stop in ranges:
                for name, values in recipe.make(start, stop).items():
                    sink.write(name, values, at * (values.size // (stop - start)))
                at += stop - start
        sink.share()
        return table

    def sample(self, hidden: Tensor) -> SampledTokens:
        """Sample greedily at final hidden states [rows, hidden_size] (MODEL.md, step 8)."""
        choices = SampledTokens(len(hidden), self.tokens.streaming_pad)
        for first, logits in self.logits(hidden):
            choices.see(first, logits)
        return choices


def encoder_stages(config: VoxtralConfig) -> tuple[str, ...]:
    """Return the names of the stages from log-mel frames to audio embeddings, in order."""
    layers = (f"audio_tower.layers.{i}" for i in range(config.encoder.num_hidden_layers))
    return (STEM, *layers, PROJECTOR)


def decoder_stages(config: VoxtralConfig) -> tuple[str, ...]:
    """Return the names of the stages from summed embeddings to final hidden states, in order."""
    return (
        *(f"language_model.layers.{i}" for i in range(config.decoder.num_hidden_layers)),
        FINAL_NORM,
    )


def fill(module: nn.Module, checkpoint: Checkpoint, name: str = "") -> None:
    """Load the checkpoint's weights into a module, given with its name in the model."""
    sink = _Parameters(module, name)
    with ThreadPoolExecutor() as pool:
        for recipe in weight_recipes(module, checkpoint, name):
            recipe.run(pool, [sink])
            for tensor in recipe.tensors:
                tensor.release()
    sink.share()


def rotation(
    stack: TransformerConfig, start: int, rows: int, batch: int = 1
) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles at the absolute positions from `start` on.

    Both are [batch, rows, head_dim / 2], computed in float64 and rounded to float32.
    """
    frequencies = stack.rope_theta ** (
        -torch.arange(0, stack.head_dim, 2, dtype=torch.float64) / stack.head_dim
    )
    angles = torch.arange(start, start + rows, dtype=torch.float64)[:, None] * frequencies
    angles = angles.expand(batch, rows, -1)
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


class _Dequantized(nn.Module):
    """A quantised linear layer whose weights were dequantised once, for several calls."""

    def __init__(self, part: QuantizedLinear):
        super().__init__()
        self.bias = part.bias
        self.weight = nn.Parameter(
            torch.empty(len(part.weight), part.in_features), requires_grad=False
        )
        # In slices of rows, because every step of unpacking makes a copy
        for start in range(0, len(part.weight), ROWS):
            rows = slice(start, start + ROWS)
            zeros = None if part.zero_points is None else part.zero_points[rows]
            values = ops.dequantize(part.weight[rows], part.scales[rows], zeros, part.rule.bits)
            self.weight[rows] = values.flatten(1)[:, : part.in_features]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def _report(observe: Observer, name: str, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    observe(name, inputs[0].flatten(0, -2))


class _Parameters:
    """Parameters of a module that weight recipes write into, in the place of data files."""

    def __init__(self, module: nn.Module, name: str):
        self.module = module
        prefix = name + "." if name else ""
        self.arrays = {
            prefix + key: value.numpy().reshape(-1) for key, value in module.state_dict().items()
        }

    def write(self, name: str, values: np.ndarray, at: int) -> None:
        """Write values into the parameter `name` from its element `at` on, in its own type."""
        self.arrays[name][at : at + values.size] = values.reshape(-1)

    def share(self) -> None:
        """Point the embedding of a quantised table at the scales or codes of its head.

        The embedding has the scales with a third axis, or the same bytes of codes.
        """
        for part in self.module.modules():
            if isinstance(part, QuantizedTiedEmbedding):
                part.gather_scales = nn.Parameter(part.scales[..., None], requires_grad=False)
            elif isinstance(part, DequantizedTiedEmbedding):
                part.gather_weight = part.weight
