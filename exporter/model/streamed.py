"""Modules of transformers.js' graphs: encoder, embedding and decoder with growing caches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...config import VoxtralConfig
from . import ops
from .layers import Positions
from .linear import parameter, table
from .parameters import BASE, DIGITS, Part, Parts
from .voxtral import AudioEncoder, LanguageModel


class Rotation(nn.Module):
    """Rotary cosines and sines of any position, by adding the angles of its digits.

    A float32 angle is off by 0.016 at position 10^6, and float64 runs on few hosts.
    """

    def __init__(self, part: Part):
        super().__init__()
        self.cos, self.sin = parameter(part, "cos"), parameter(part, "sin")

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin, float32 [1, seq, head_dim / 2], of int64 positions [1, seq]."""
        rows = [ops.digit(positions, BASE, place) + BASE * place for place in range(DIGITS)]
        cos, sin = ops.gather(self.cos, rows[0]), ops.gather(self.sin, rows[0])
        for row in rows[1:]:
            c, s = ops.gather(self.cos, row), ops.gather(self.sin, row)
            cos, sin = cos * c - sin * s, sin * c + cos * s
        return cos, sin


class StreamedEncoder(AudioEncoder):
    """The encoder with growing key-value caches and one cache for both convolutions."""

    def __init__(self, parts: Parts, config: VoxtralConfig):
        super().__init__(parts, config)
        self.n_mels, self.window = config.audio.n_mels, config.encoder.sliding_window
        self.rotation = Rotation(parts["rotation"])

    def forward(
        self,
        input_features: Tensor,  # float32 [1, n_mels, 8 * chunk]
        attention_mask: Tensor,  # int64 [1, total], all ones
        position_ids: Tensor,  # int64 [1, 4 * chunk]
        past_padding_cache: Tensor,  # [1, n_mels + hidden_size, 2]
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        stem = self.audio_tower.embedder
        x, conv1_state = stem.conv1(
            past_padding_cache[:, : self.n_mels], input_features.to(self.dtype)
        )
        x, conv2_state = stem.conv2(past_padding_cache[:, self.n_mels :, 1:], x)
        # The second convolution reads one column of the two
        padding_cache = torch.cat((conv1_state, conv2_state.expand(-1, -1, 2)), 1)
        cos, sin = (part.to(self.dtype) for part in self.rotation(position_ids))
        at = Positions.behind(past[0], self.window, cos, sin)
        audio_embeds, present = self.encode(x.transpose(1, 2), at, past)
        return audio_embeds.float(), padding_cache, *present


class Table(nn.Module):
    """A module that gives the tied table its name in the checkpoint."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.embed_tokens = table(parts["language_model.embed_tokens"])


class Embedding(nn.Module):
    """The lookup of token embeddings."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.language_model = Table(parts)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.language_model.embed_tokens.embed(input_ids).float()  # [1, seq, hidden_size]


class StreamedDecoder(nn.Module):
    """The decoder's layers and head, with growing key-value caches."""

    def __init__(self, parts: Parts, config: VoxtralConfig):
        super().__init__()
        self.window = config.decoder.sliding_window
        self.language_model = LanguageModel(parts, config)
        self.rotation = Rotation(parts["rotation"])

    def forward(
        self,
        inputs_embeds: Tensor,  # float32 [1, seq, hidden_size]
        attention_mask: Tensor,  # int64 [1, total], all ones
        num_delay_tokens: Tensor,  # int64 [1]
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        seq, dtype = inputs_embeds.shape[1], self.language_model.norm.weight.dtype
        begin = ops.size(attention_mask, 1) - ops.size(inputs_embeds, 1)
        positions = begin + torch.arange(seq)  # [seq]
        cos, sin = (part.to(dtype) for part in self.rotation(positions[None]))
        at = Positions.behind(past[0], self.window, cos, sin)
        hidden, present = self.language_model.run(
            inputs_embeds.to(dtype), at, past, num_delay_tokens
        )
        return self.language_model.embed_tokens.logits(hidden).float(), *present
