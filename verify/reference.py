"""The PyTorch modules with the weights of an artifact: what its graphs must compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..exporter.layerwise import Layerwise
from ..exporter.modules import (
    Build,
    Decoder,
    Embedder,
    Layer,
    Positions,
    Projector,
    QuantizedTiedEmbedding,
    RMSNorm,
    TiedEmbedding,
)
from ..manifest import Manifest
from ..quant.recipe import Recipe
from .stages import BRANCH, EMBEDDING, HEAD, NEXT, PROJECTOR, RESIDUAL, STEM, StagedGraph


class ArtifactModel(Layerwise):
    """One precision of an artifact, computed in float32 with the weights that its data files hold."""

    def __init__(self, folder: Path, manifest: Manifest, precision: str):
        """Nothing but the graphs is read yet; both must be of the exporter's making.

        Raises:
            ArtifactError: as `StagedGraph`.
        """
        graphs = manifest.precisions[precision]
        self.config, self.tokens, self.observe = manifest.config, manifest.tokens, None
        self.build = Build(torch.float32, Recipe.from_dict(graphs.recipe))
        self.num_delay_tokens = manifest.streaming.default_delay_tokens
        self.encoder = StagedGraph(folder, graphs.encoder, manifest.config)
        self.decoder = StagedGraph(folder, graphs.decoder, manifest.config)

    def load(self, name: str, module: nn.Module) -> None:
        """Give a module, whose name in the model this is, the artifact's weights."""
        _assign(module, {key: self._weights(f"{name}.{key}") for key in module.state_dict()})

    def table(self, ranges: Sequence[tuple[int, int]]) -> TiedEmbedding | QuantizedTiedEmbedding:
        """The table's rows of these ranges, one after the other."""
        hidden_size = self.config.decoder.hidden_size
        table = self.build.tied_embedding(EMBEDDING, sum(stop - start for start, stop in ranges), hidden_size)
        rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        _assign(table, {key: self.decoder.weights(f"{EMBEDDING}.{key}", rows) for key in table.state_dict()})
        return table

    def _weights(self, name: str) -> np.ndarray:
        return (self.decoder if name.startswith("language_model.") else self.encoder).weights(name)

    @torch.no_grad()
    def call(self, stage: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the module of a stage gives for the inputs of the stage's graph, under the names of its outputs."""
        outputs = self._call(stage, {name: torch.from_numpy(values) for name, values in feeds.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def _call(self, stage: str, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config, build, encoder, decoder = self.config, self.build, self.config.encoder, self.config.decoder
        if stage == STEM:
            stem = Embedder(build, config.audio.n_mels, encoder.hidden_size)
            self.load(stage, stem)
            x, conv1_state = stem.conv1(feeds["conv1_state"], feeds["input_features"])
            x, conv2_state = stem.conv2(feeds["conv2_state"], x)
            states = {"present_conv1_state": conv1_state, "present_conv2_state": conv2_state}
            return {NEXT + RESIDUAL: x.transpose(1, 2), **states}
        if stage == PROJECTOR:
            joined = encoder.hidden_size * encoder.downsample_factor
            norm = RMSNorm(build, encoder.hidden_size, encoder.rms_norm_eps)
            projector = Projector(build, joined, decoder.hidden_size)
            self.load("audio_tower.norm", norm)
            self.load(stage, projector)
            hidden = norm(feeds[RESIDUAL], feeds[BRANCH])[0]
            return {"audio_embeds": projector(hidden.reshape(1, -1, joined))}
        if stage == EMBEDDING:
            return {NEXT + RESIDUAL: self.embed(feeds["input_ids"][0])[None] + feeds["audio_embeds"]}
        if stage == HEAD:
            norm = RMSNorm(build, decoder.hidden_size, decoder.rms_norm_eps)
            self.load(stage, norm)
            hidden = norm(feeds[RESIDUAL], feeds[BRANCH])[0]
            logits = torch.cat([part for _, part in self.logits(hidden[0])], -1)[None]
            with torch.device("meta"):
                tail = Decoder(build, config, self.tokens)
            tail.blank_mask = nn.Parameter(torch.from_numpy(self.decoder.weights("blank_mask")), requires_grad=False)
            step = tail.choose(logits, feeds["blank_penalty"])
            return {"next_ids": step[..., 0].long(), "step": step, "logits": logits}
        is_encoder = stage.startswith("audio_tower.")
        layer = Layer(build, stage, encoder if is_encoder else decoder, bias=is_encoder, delay=not is_encoder)
        self.load(stage, layer)
        past = (f"past_key_values.{stage.split('.')[-1]}.{part}" for part in ("key", "value"))
        at = Positions(*(feeds[name] for name in ("cos", "sin", "seqlens_k", "total_sequence_length")))
        residual, branch, key, value = layer(
            feeds[RESIDUAL], feeds.get(BRANCH), at, *(feeds[name] for name in past), feeds.get("num_delay_tokens")
        )
        present = (f"present.{stage.split('.')[-1]}.{part}" for part in ("key", "value"))
        return {NEXT + RESIDUAL: residual, NEXT + BRANCH: branch, **dict(zip(present, (key, value), strict=True))}


def _assign(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    types = {name: value.dtype for name, value in module.state_dict().items()}
    module.load_state_dict(
        {key: torch.from_numpy(values).to(types[key]) for key, values in weights.items()}, assign=True
    )
