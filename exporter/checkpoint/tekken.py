"""What the exporter takes from `tekken.json`: ids with a meaning and the streaming constants."""

from __future__ import annotations

import json
from operator import index
from typing import Any

from ...config import VoxtralConfig
from ...errors import CheckpointError
from ...manifest import MAX_DELAY_TOKENS, Streaming, Tokens

BOS_TOKENS = 1
WORD_TOKENS = 10  # longest word; mistral-common's OFFLINE_STREAMING_BUFFER_TOKENS
MAX_CHUNK_TOKENS = 16  # larger encoder calls are slower per row
_NAMES = {
    "bos": "<s>",
    "eos": "</s>",
    "streaming_pad": "[STREAMING_PAD]",
    "streaming_word": "[STREAMING_WORD]",
}


def read_tekken(
    content: bytes, config: VoxtralConfig, trained_delays_ms: tuple[int, ...]
) -> tuple[Tokens, Streaming]:
    """Look up ids by name and derive the streaming constants.

    Raises:
        CheckpointError: not a tekken.json, without the streaming tokens, or for another model.
    """
    try:
        values = json.loads(content)
        ids = {entry["token_str"]: index(entry["rank"]) for entry in values["special_tokens"]}
        first_text = index(values["config"]["default_num_special_tokens"])
        vocab_size = index(values["config"]["default_vocab_size"])
        audio = values["audio"]
        rate, delay_ms = audio["sampling_rate"], audio["transcription_delay_ms"]
        left_pad_tokens = index(audio["streaming_n_left_pad_tokens"])
        num_ranks = len(values["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "tekken.json: expected a Tekken tokenizer with special tokens and an audio section, "
            f"got {error!r}; take the file that belongs to the checkpoint"
        ) from error
    if missing := [name for name in _NAMES.values() if name not in ids]:
        raise CheckpointError(
            f"tekken.json: no special token {', '.join(missing)}: the tokenizer of a model without "
            "streaming; take the file that belongs to the checkpoint"
        )
    _check("vocabulary", vocab_size, config.decoder.vocab_size)
    _check("sampling rate", rate, config.audio.sample_rate)
    if first_text + num_ranks < vocab_size:
        raise CheckpointError(
            f"tekken.json: {first_text} special and {num_ranks} text tokens do "
            f"not make {vocab_size}"
        )

    ms_per_token = 1000 * config.audio.samples_per_token // rate
    trained = tuple(
        _delay_tokens("card.json: trained delay", delay, ms_per_token)
        for delay in trained_delays_ms
    )
    return (
        Tokens(**{field: ids[name] for field, name in _NAMES.items()}, first_text=first_text),
        Streaming(
            left_pad_tokens=left_pad_tokens,
            right_pad_tokens=BOS_TOKENS + WORD_TOKENS,
            look_back_samples=config.audio.n_fft // 2,
            look_ahead_samples=config.audio.n_fft // 2 - config.audio.hop_length,
            max_chunk_tokens=MAX_CHUNK_TOKENS,
            default_delay_tokens=_delay_tokens(
                "tekken.json: transcription delay", delay_ms, ms_per_token
            ),
            max_delay_tokens=MAX_DELAY_TOKENS,
            trained_delay_tokens=trained,
        ),
    )


def _delay_tokens(what: str, delay_ms: Any, ms_per_token: int) -> int:
    longest = MAX_DELAY_TOKENS * ms_per_token
    if (
        not isinstance(delay_ms, int | float)
        or delay_ms % ms_per_token
        or not ms_per_token <= delay_ms <= longest
    ):
        raise CheckpointError(
            f"{what}: expected a multiple of {ms_per_token} ms up to {longest}, got {delay_ms!r} ms"
        )
    return int(delay_ms // ms_per_token)


def _check(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise CheckpointError(
            f"tekken.json: {what}: expected {wanted} as in the hyperparameters, got {found}"
        )
