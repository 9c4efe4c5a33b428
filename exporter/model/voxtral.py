"""Encoder and decoder of Voxtral Realtime, assembled from layers, as export traces them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...config import VoxtralConfig
from ...manifest import Tokens
from . import attention, ops
from .layers import PagedPositions, Positions, Stack
from .linear import linear, parameter, table
from .parameters import Part, Parts


class Conv(nn.Module):
    """A causal convolution with kernel 3 and GELU, padded on the left by the last call's state."""

    def __init__(self, part: Part, stride: int):
        super().__init__()
        self.weight, self.bias = parameter(part, "weight"), parameter(part, "bias")
        self.stride = stride

    def forward(
        self, state: Tensor, x: Tensor, num_columns: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return gelu(conv(x)) and the next state: the last 3 - stride columns of the input.

        num_columns: int [batch], the columns of `x` in front of padding; None for all.
        """
        x, size = torch.cat((state, x), -1), 3 - self.stride
        y = F.gelu(F.conv1d(x, self.weight, self.bias, stride=self.stride))
        return y, x[..., -size:] if num_columns is None else ops.columns(x, num_columns, size)


class Embedder(nn.Module):
    """The conv stem, from 100 mel frames a second to 50 encoder frames."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.conv1 = Conv(parts["audio_tower.embedder.conv1"], stride=1)
        self.conv2 = Conv(parts["audio_tower.embedder.conv2"], stride=2)


class AudioTower(Stack):
    """The conv stem and the encoder layers."""

    def __init__(self, parts: Parts, config: VoxtralConfig):
        super().__init__(parts, "audio_tower", config.encoder)
        self.embedder = Embedder(parts)


class Projector(nn.Module):
    """The adapter, from four joined encoder frames to one audio embedding."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.linear_1 = linear(parts["multi_modal_projector.linear_1"])
        self.linear_2 = linear(parts["multi_modal_projector.linear_2"])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


class AudioEncoder(nn.Module):
    """Conv stem, encoder and adapter, with any kind of cache."""

    def __init__(self, parts: Parts, config: VoxtralConfig):
        super().__init__()
        self.joined = config.encoder.hidden_size * config.encoder.downsample_factor
        self.audio_tower = AudioTower(parts, config)
        self.multi_modal_projector = Projector(parts)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of activations and caches."""
        return self.audio_tower.norm.weight.dtype

    def run_stem(
        self,
        input_features: Tensor,
        conv1_state: Tensor,
        conv2_state: Tensor,
        num_frames: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the stem on mel frames [batch, n_mels, 8 * chunk].

        num_frames: int [batch], those in front of padding; None for all.

        Returns:
            Encoder frames [batch, 4 * chunk, hidden_size], and the convolutions' next states.
        """
        stem = self.audio_tower.embedder
        x, conv1_state = stem.conv1(conv1_state, input_features.to(self.dtype), num_frames)
        x, conv2_state = stem.conv2(conv2_state, x, num_frames)
        return x.transpose(1, 2), conv1_state, conv2_state

    def encode(
        self, x: Tensor, at: Positions | PagedPositions, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode encoder frames [batch, 4 * chunk, hidden_size].

        Returns:
            Audio embeddings [batch, chunk, hidden_size], and the present caches.
        """
        hidden, present = self.audio_tower.run(x, at, past)
        joined = hidden.reshape(hidden.shape[0], -1, self.joined)
        return self.multi_modal_projector(joined), present


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
        x, conv1_state, conv2_state = self.run_stem(input_features, conv1_state, conv2_state)
        audio_embeds, present = self.encode(
            x, Positions(cos, sin, seqlens_k, total_sequence_length), past
        )
        return audio_embeds, conv1_state, conv2_state, *present


class BatchEncoder(AudioEncoder):
    """The encoder's graph for several streams, each of which brings as many frames as it has.

    The state of a stream that brings none stays bit for bit as it was.
    """

    def forward(
        self,
        input_features: Tensor,  # float32 [batch, n_mels, 8 * chunk], padded behind
        conv1_state: Tensor,  # [batch, n_mels, 2]
        conv2_state: Tensor,  # [batch, hidden_size, 1]
        cos: Tensor,  # [batch, 4 * chunk, head_dim / 2]
        sin: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        query_seqlens: Tensor,  # int32 [batch], 4 for each token that is no padding
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        x, conv1_state, conv2_state = self.run_stem(
            input_features, conv1_state, conv2_state, 2 * query_seqlens
        )
        at = Positions(cos, sin, seqlens_k, total_sequence_length, query_seqlens)
        audio_embeds, present = self.encode(x, at, past)
        return audio_embeds, conv1_state, conv2_state, *present


class PagedEncoder(AudioEncoder):
    """The encoder's graph for several streams whose caches are pages.

    Its batch is any of the streams, in any order. Rows of padding are written nowhere.
    """

    def forward(
        self,
        input_features: Tensor,  # float32 [batch, n_mels, 8 * chunk], padded behind
        conv1_state: Tensor,  # [batch, n_mels, 2]
        conv2_state: Tensor,  # [batch, hidden_size, 1]
        cos: Tensor,  # [batch, 4 * chunk, head_dim / 2]
        sin: Tensor,
        query_seqlens: Tensor,  # int32 [batch], 4 for each token that is no padding
        cumulative_sequence_length: Tensor,  # int32 [batch + 1], 0, 4 * chunk, 8 * chunk, ...
        past_seqlens: Tensor,  # int32 [batch]
        block_table: Tensor,  # int32 [batch, pages]
        slot_mapping: Tensor,  # int32 [batch, 4 * chunk], -1 for padding
        attention_metadata: Tensor,  # int32 [2]
        *past: Tensor,  # [num_pages, page_rows, kv_heads, head_dim]
    ) -> tuple[Tensor, ...]:
        # The stem, a stream a row
        x, conv1_state, conv2_state = self.run_stem(
            input_features, conv1_state, conv2_state, 2 * query_seqlens
        )

        # The layers, all streams in one row
        pages = attention.Pages(
            cumulative_sequence_length,
            past_seqlens,
            block_table,
            slot_mapping.reshape(-1),
            attention_metadata,
        )
        cos, sin = (angles.reshape(1, -1, angles.shape[2]) for angles in (cos, sin))
        x = x.reshape(1, -1, x.shape[2])
        audio_embeds, present = self.encode(x, PagedPositions(cos, sin, pages), past)
        return audio_embeds, conv1_state, conv2_state, *present


class LanguageModel(Stack):
    """The tied table and the decoder layers."""

    def __init__(self, parts: Parts, config: VoxtralConfig):
        super().__init__(parts, "language_model", config.decoder)
        self.embed_tokens = table(parts["language_model.embed_tokens"])


class Decoder(nn.Module):
    """The decoder's graph: audio embedding + token -> next token, at one position or several."""

    def __init__(self, parts: Parts, config: VoxtralConfig, tokens: Tokens):
        super().__init__()
        self.blank = tokens.streaming_pad
        self.language_model = LanguageModel(parts, config)
        self.blank_mask = parameter(parts[""], "blank_mask")
        self.token_ids = parameter(parts[""], "token_ids")

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
