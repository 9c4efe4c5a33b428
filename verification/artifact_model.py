"""The PyTorch modules with an artifact's weights, as the reference for its graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..exporter.model import ops
from ..exporter.model.layers import Layer, Positions, RMSNorm
from ..exporter.model.linear import QuantizedLinear, Table
from ..exporter.model.parameters import decoder_parts
from ..exporter.model.voxtral import Decoder, Embedder, Projector
from .layerwise import ROWS, Layerwise, Module
from .subgraphs import (
    BRANCH,
    EMBEDDING,
    HEAD,
    NEXT,
    PROJECTOR,
    RESIDUAL,
    STEM,
    ArtifactGraphs,
)

Tensors = Mapping[str, Tensor]
Computation = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class ArtifactModel(Layerwise):
    """One precision of an artifact, with the weights of its data files, computed in float32."""

    def __init__(self, graphs: ArtifactGraphs, num_delay_tokens: int):
        """Prepare the model at a delay, without reading any weights."""
        self.config, self.tokens, self.build = graphs.config, graphs.tokens, graphs.build
        self.encoder, self.decoder = graphs.encoder, graphs.decoder
        self.num_delay_tokens = num_delay_tokens

    def load(self, name: str, module: Module) -> Module:
        """Load the artifact's weights into a module, given by its name in the model, and return it.

        Its quantised layers are dequantised: what is computed shows the rounding of weights, but
        not that of activations (`accuracy_level`).
        """
        _assign(module, {key: self._weights(f"{name}.{key}") for key in module.state_dict()})
        for path, part in list(module.named_modules()):
            if isinstance(part, QuantizedLinear):
                module.set_submodule(path, _Dequantized(part))
        return module

    def table(self, ranges: Sequence[tuple[int, int]]) -> Table:
        """Load the tied table's rows of some ranges [start, stop), one range after the other."""
        table = self.empty_table(sum(stop - start for start, stop in ranges))
        rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        _assign(
            table,
            {key: self.decoder.weights(f"{EMBEDDING}.{key}", rows) for key in table.state_dict()},
        )
        return table

    def _weights(self, name: str) -> np.ndarray:
        return (self.decoder if name.startswith("language_model.") else self.encoder).weights(name)

    def computation(self, stage: str) -> Computation:
        """Return the function that a stage's graph must compute, from inputs to outputs by name.

        The stage's weights are loaded once, when the function is made.
        """
        run = self._computation(stage)

        def compute(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            with torch.no_grad():
                outputs = run({name: torch.from_numpy(values) for name, values in feeds.items()})
            return {name: value.numpy() for name, value in outputs.items()}

        return compute

    def _computation(self, stage: str) -> Callable[[Tensors], Tensors]:
        config, encoder, decoder = self.config, self.config.encoder, self.config.decoder

        # The encoder's ends
        if stage == STEM:
            return partial(_run_stem, self.load(stage, Embedder(self.parts)))
        if stage == PROJECTOR:
            joined = encoder.hidden_size * encoder.downsample_factor
            norm = self.norm("audio_tower.norm", encoder)
            projector = self.load(stage, Projector(self.parts))
            return lambda x: {
                "audio_embeds": projector(norm(x[RESIDUAL], x[BRANCH])[0].reshape(1, -1, joined))
            }

        # The decoder's ends
        if stage == EMBEDDING:
            return lambda x: {
                NEXT + RESIDUAL: self.embed(x["input_ids"][0])[None] + x["audio_embeds"]
            }
        if stage == HEAD:
            norm = self.norm(stage, decoder)
            parts = decoder_parts(self.build, config, self.tokens)
            with torch.device("meta"):
                tail = Decoder(parts, config, self.tokens)
            make = parts[""].constants
            assert make is not None
            for name, values in make().items():
                setattr(tail, name, nn.Parameter(torch.from_numpy(values), requires_grad=False))
            return partial(self._run_head, norm, tail)

        # A layer
        layer = Layer(self.parts, stage, encoder if stage in self.encoder.layers else decoder)
        return partial(_run_layer, self.load(stage, layer), stage.rpartition(".")[2])

    def _run_head(self, norm: RMSNorm, tail: Decoder, x: Tensors) -> Tensors:
        hidden = norm(x[RESIDUAL], x[BRANCH])[0]
        logits = torch.cat([*self.logits(hidden[0])], -1)[None]
        step = tail.sample(logits, x["blank_penalty"])
        return {"next_ids": step[..., 0].long(), "step": step, "logits": logits}


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


def _run_stem(stem: Embedder, x: Tensors) -> Tensors:
    y, conv1_state = stem.conv1(x["conv1_state"], x["input_features"])
    y, conv2_state = stem.conv2(x["conv2_state"], y)
    return {
        NEXT + RESIDUAL: y.transpose(1, 2),
        "present_conv1_state": conv1_state,
        "present_conv2_state": conv2_state,
    }


def _run_layer(layer: Layer, number: str, x: Tensors) -> Tensors:
    at = Positions(x["cos"], x["sin"], x["seqlens_k"], x["total_sequence_length"])
    past = (x[f"past_key_values.{number}.{part}"] for part in ("key", "value"))
    residual, branch, key, value = layer(
        x[RESIDUAL], x.get(BRANCH), at, *past, x.get("num_delay_tokens")
    )
    present = {f"present.{number}.key": key, f"present.{number}.value": value}
    return {NEXT + RESIDUAL: residual, NEXT + BRANCH: branch, **present}


def _assign(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    types = {name: value.dtype for name, value in module.state_dict().items()}
    module.load_state_dict(
        {key: torch.from_numpy(values).to(types[key]) for key, values in weights.items()},
        assign=True,
    )
