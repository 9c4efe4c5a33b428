"""The PyTorch modules with an artifact's weights, as the reference for its graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..exporter.model import ops
from ..exporter.model.layers import Layer, Positions, RMSNorm
from ..exporter.model.linear import ModuleFactory, QuantizedLinear, Table
from ..exporter.model.voxtral import Decoder, Embedder, Projector
from ..manifest import Manifest
from ..quant.recipe import Recipe
from .layerwise import ROWS, Layerwise, Module
from .subgraphs import BRANCH, EMBEDDING, HEAD, NEXT, PROJECTOR, RESIDUAL, STEM, StagedGraph

Tensors = Mapping[str, Tensor]
Computation = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class ArtifactModel(Layerwise):
    """One precision of an artifact, with the weights of its data files, computed in float32."""

    def __init__(self, folder: Path, manifest: Manifest, precision: str):
        """Read the graphs of a precision, but not yet their weights.

        Raises:
            ArtifactError: as `StagedGraph`.
        """
        graphs = manifest.precisions[precision]
        self.config, self.tokens = manifest.config, manifest.tokens
        self.build = ModuleFactory(torch.float32, Recipe.of(graphs.recipe))
        self.num_delay_tokens = manifest.streaming.default_delay_tokens
        self.encoder = StagedGraph(folder, graphs.encoder, manifest.config)
        self.decoder = StagedGraph(folder, graphs.decoder, manifest.config)

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
        hidden_size = self.config.decoder.hidden_size
        table = self.build.tied_embedding(
            EMBEDDING, sum(stop - start for start, stop in ranges), hidden_size
        )
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
        config = self.config
        build = self.build
        encoder = self.config.encoder
        decoder = self.config.decoder

        # The encoder's ends
        if stage == STEM:
            return partial(
                _run_stem,
                self.load(stage, Embedder(build, config.audio.n_mels, encoder.hidden_size)),
            )
        if stage == PROJECTOR:
            joined = encoder.hidden_size * encoder.downsample_factor
            norm = self.load(
                "audio_tower.norm", RMSNorm(build, encoder.hidden_size, encoder.rms_norm_eps)
            )
            projector = self.load(stage, Projector(build, joined, decoder.hidden_size))
            return lambda x: {
                "audio_embeds": projector(norm(x[RESIDUAL], x[BRANCH])[0].reshape(1, -1, joined))
            }

        # The decoder's ends
        if stage == EMBEDDING:
            return lambda x: {
                NEXT + RESIDUAL: self.embed(x["input_ids"][0])[None] + x["audio_embeds"]
            }
        if stage == HEAD:
            norm = self.load(stage, RMSNorm(build, decoder.hidden_size, decoder.rms_norm_eps))
            with torch.device("meta"):
                tail = Decoder(build, config, self.tokens)
            for name, values in tail.constants().items():
                setattr(tail, name, nn.Parameter(torch.from_numpy(values), requires_grad=False))
            return partial(self._run_head, norm, tail)

        # A layer
        is_encoder = stage in self.encoder.layers
        layer = Layer(
            build, stage, encoder if is_encoder else decoder, bias=is_encoder, delay=not is_encoder
        )
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
