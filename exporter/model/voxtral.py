"""Encoder and decoder of Voxtral Realtime, assembled from layers, as export traces them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...config import VoxtralConfig
from ...manifest import Tokens
from . import ops
from .layers import Positions, Stack
from .linear import MASKED, ModuleFactory, WithConstants


class Conv(nn.Module):
    """A causal convolution with kernel 3 and GELU, padded on the left by the last call's state."""

    def __init__(self, build: ModuleFactory, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.weight = build.parameter(out_channels, in_channels, 3)
        self.bias = build.parameter(out_channels)
        self.stride = stride

    def forward(self, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return gelu(conv(x)) and the next state: the last 3 - stride columns of the input."""
        x = torch.cat((state, x), -1)
        y = F.conv1d(x, self.weight, self.bias, stride=self.stride)
        return F.gelu(y), x[..., -(3 - self.stride) :]


class Embedder(nn.Module):
    """The conv stem, from 100 mel frames a second to 50 encoder frames."""

    def __init__(self, build: ModuleFactory, n_mels: int, hidden_size: int):
        super().__init__()
        self.conv1 = Conv(build, n_mels, hidden_size, stride=1)
        self.conv2 = Conv(build, hidden_size, hidden_size, stride=2)


class AudioTower(Stack):
    """The conv stem and the encoder layers."""

    def __init__(self, build: ModuleFactory, config: VoxtralConfig):
        super().__init__(build, "audio_tower", config.encoder, bias=True, delay=False)
        self.embedder = Embedder(build, config.audio.n_mels, config.encoder.hidden_size)


class Projector(nn.Module):
    """The adapter, from four joined encoder frames to one audio embedding."""

    def __init__(self, build: ModuleFactory, in_features: int, out_features: int):
        super().__init__()
        self.linear_1 = build.linear("multi_modal_projector.linear_1", in_features, out_features)
        self.linear_2 = build.linear("multi_modal_projector.linear_2", out_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


class AudioEncoder(nn.Module):
    """Conv stem, encoder and adapter, with any kind of cache."""

    def __init__(self, build: ModuleFactory, config: VoxtralConfig):
        super().__init__()
        joined = config.encoder.hidden_size * config.encoder.downsample_factor
        self.dtype, self.joined = build.dtype, joined
        self.audio_tower = AudioTower(build, config)
        self.multi_modal_projector = Projector(build, joined, config.decoder.hidden_size)

    def encode(
        self, x: Tensor, at: Positions, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode the stem's output [1, hidden_size, 4 * chunk].

        Returns:
            Audio embeddings [1, chunk, hidden_size], and the present caches.
        """
        hidden, present = self.audio_tower.run(x.transpose(1, 2), at, past)
        return self.multi_modal_projector(hidden.reshape(1, -1, self.joined)), present


class Encoder(AudioEncoder):
    """The encoder's graph: 8c mel frames -> 4c encoder frames -> c audio embeddings."""

    def forward(
        self,
        input_features: Tensor,  # float32 [1, n_mels, 8 * chunk]
        conv1_state: Tensor,  # [1, n_mels, 2]
        conv2_state: Tensor,  # [1, hidden_size, 1]
        cos: Tensor,  # [1, 4 * chunk, head_dim / 2]
        sin: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        x, conv1_state = self.audio_tower.embedder.conv1(conv1_state, input_features.to(self.dtype))
        # [1, hidden_size, 4 * chunk]
        x, conv2_state = self.audio_tower.embedder.conv2(conv2_state, x)
        audio_embeds, present = self.encode(
            x, Positions(cos, sin, seqlens_k, total_sequence_length), past
        )
        return audio_embeds, conv1_state, conv2_state, *present


class LanguageModel(Stack):
    """The tied table and the decoder layers."""

    def __init__(self, build: ModuleFactory, config: VoxtralConfig):
        super().__init__(build, "language_model", config.decoder, bias=False, delay=True)
        self.embed_tokens = build.tied_embedding(
            "language_model.embed_tokens", config.decoder.vocab_size, config.decoder.hidden_size
        )


class Decoder(WithConstants):
    """The decoder's graph: audio embedding + token -> next token, at one position or several."""

    def __init__(self, build: ModuleFactory, config: VoxtralConfig, tokens: Tokens):
        super().__init__()
        self.blank = tokens.streaming_pad
        self.language_model = LanguageModel(build, config)
        self.blank_mask = build.parameter(config.decoder.vocab_size, dtype=torch.float32)
        self.token_ids = build.parameter(config.decoder.vocab_size, dtype=torch.float32)

    def constants(self) -> dict[str, np.ndarray]:
        """Return a mask, MASKED at the blank and 0 elsewhere, and the ids of all tokens.

        The ids turn ArgMax's index into a float, because WebGPU has no kernels for its int64.
        """
        mask = np.zeros(tuple(self.blank_mask.shape), np.float32)
        mask[self.blank] = MASKED
        return {"blank_mask": mask, "token_ids": np.arange(len(mask), dtype=np.float32)}

    def forward(
        self,
        input_ids: Tensor,  # int64 [batch, seq]
        audio_embeds: Tensor,  # [batch, seq, hidden_size]
        num_delay_tokens: Tensor,  # int64 [batch]
        cos: Tensor,  # [batch, seq, head_dim / 2]
        sin: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        blank_penalty: Tensor,  # float32 [batch, seq]
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        x = self.language_model.embed_tokens.embed(input_ids) + audio_embeds
        at = Positions(cos, sin, seqlens_k, total_sequence_length)
        hidden, present = self.language_model.run(x, at, past, num_delay_tokens)
        logits = self.language_model.embed_tokens.logits(hidden).float()  # [batch, seq, vocab_size]
        step = self.sample(logits, blank_penalty)
        return step[..., 0].long(), step, logits, *present

    def sample(self, logits: Tensor, blank_penalty: Tensor) -> Tensor:
        """Sample greedily, with a penalty on the blank's logit.

        A tie goes to the lower id, as in ArgMax.

        Returns:
            float32 [batch, seq, 3]: id (exact below 2^24), logprob, and blank margin, which is the
            blank's logit less the best other one.
        """
        word, index = ops.highest(logits + self.blank_mask)
        best = ops.gather(self.token_ids, index).squeeze(-1)
        blank, blank_id = logits[..., self.blank], float(self.blank)
        held_back = blank - blank_penalty
        tied = torch.where(held_back == word, best.clamp(max=blank_id), best)
        chosen = torch.where(held_back > word, blank_id, tied)
        chosen_logit = torch.where(chosen == blank_id, blank, word)
        highest = torch.maximum(blank, word)
        log_sum = highest + (logits - highest[..., None]).exp().sum(-1).log()
        return torch.stack((chosen, chosen_logit - log_sum, blank - word), -1)
