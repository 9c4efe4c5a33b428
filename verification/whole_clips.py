"""Run clips through the PyTorch modules as whole recordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..manifest import Manifest
from ..runtime.decision import greedy_decision
from ..runtime.device.session import Session
from .clips import Clip, Run, pad_samples
from .layerwise import Layerwise, decoder_stages, encoder_stages


@torch.no_grad()
def encode(
    model: Layerwise, manifest: Manifest, mel: Session, clips: Sequence[Clip]
) -> list[torch.Tensor]:
    """Return the audio embeddings [positions, hidden_size] of each clip and the silence around."""
    rules, audio = manifest.streaming, manifest.config.audio
    parts = []
    for clip in clips:
        samples = pad_samples(clip.samples, audio, rules, rules.default_delay_tokens)
        parts.append(torch.from_numpy(mel.run({"audio": samples[None]})[0]))
    for stage in encoder_stages(model.config):
        parts = model.run(stage, parts)
    return [part[:-1] for part in parts]  # generation stops a position before the last


@torch.no_grad()
def decode(
    model: Layerwise,
    manifest: Manifest,
    audio_embeds: Sequence[torch.Tensor],
    ids: Sequence[np.ndarray],
) -> list[Run]:
    """Run a model over each clip's prompt and given tokens (teacher forcing).

    Args:
        model: the model.
        manifest: the artifact's, for tokens and padding.
        audio_embeds: [positions, hidden_size] of each clip, as `encode` returns them.
        ids: int64 [n] of each clip, fed in the place of the tokens that the model samples.
    """
    # Embed
    rules, tokens = manifest.streaming, manifest.tokens
    prompt = [
        tokens.bos,
        *[tokens.streaming_pad] * (rules.left_pad_tokens + rules.default_delay_tokens),
    ]
    parts = []
    for embeds, written in zip(audio_embeds, ids, strict=True):
        fed = torch.tensor([*prompt, *written[:-1].tolist()])
        assert len(fed) == len(embeds), f"{len(fed)} tokens for {len(embeds)} positions"
        parts.append(model.embed(fed) + embeds)

    # Run the layers, and sample at the positions that generate
    for stage in decoder_stages(model.config):
        parts = model.run(stage, parts)
    runs = []
    for hidden in parts:
        logits = torch.cat([*model.logits(hidden[len(prompt) - 1 :])], -1).numpy()
        made = greedy_decision(logits, tokens.streaming_pad)
        runs.append(Run(made.token_id, made.logprob, made.blank_margin, logits))
    return runs
