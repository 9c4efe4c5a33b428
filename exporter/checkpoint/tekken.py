"""Read the special token ids and the streaming constants from `tekken.json`."""

from __future__ import annotations

from ...config import VoxtralConfig
from ...errors import CheckpointError
from ...manifest import MAX_DELAY_TOKENS, Streaming, Tokens
from ...tekken import Tekken

BOS_TOKENS = 1
WORD_TOKENS = 10  # longest word; mistral-common's OFFLINE_STREAMING_BUFFER_TOKENS
MAX_CHUNK_TOKENS = 16  # larger encoder calls are slower per row
_NAMES = {
    "bos": "<s>",
    "eos": "</s>",
    "streaming_pad": "[STREAMING_PAD]",
    "streaming_word": "[STREAMING_WORD]",
}


def decode_tekken(content: bytes) -> Tekken:
    """Decode a checkpoint's `tekken.json`.

    Raises:
        CheckpointError: the content is not a Tekken tokenizer.
    """
    return Tekken.decode(
        content,
        lambda reason: CheckpointError(
            f"tekken.json: expected a Tekken tokenizer ({reason}); take the file that belongs to "
            "the checkpoint"
        ),
    )


def read_tekken(
    content: bytes, config: VoxtralConfig, trained_delays_ms: tuple[int, ...]
) -> tuple[Tokens, Streaming]:
    """Look up the special token ids by name and derive the streaming constants.

    Raises:
        CheckpointError: the content is not a tekken.json, lacks the streaming tokens, or is for
            another model.
    """
    # Check that the tokenizer is this model's
    tekken = decode_tekken(content)
    ids = {token.token_str: token.rank for token in tekken.special_tokens}
    missing = [name for name in _NAMES.values() if name not in ids]
    audio = tekken.audio
    if missing or audio is None:
        lost = f"special token {', '.join(missing)}" if missing else "section 'audio'"
        raise CheckpointError(
            f"tekken.json: no {lost}: the tokenizer of a model without streaming; take the file "
            "that belongs to the checkpoint"
        )
    _check("vocabulary", tekken.config.default_vocab_size, config.decoder.vocab_size)
    _check("sampling rate", audio.sampling_rate, config.audio.sample_rate)

    # Derive the streaming constants
    ms_per_token = 1000 * config.audio.samples_per_token // config.audio.sample_rate
    trained = tuple(
        _delay_tokens("card.json: trained delay", delay, ms_per_token)
        for delay in trained_delays_ms
    )
    return (
        Tokens(
            **{field: ids[name] for field, name in _NAMES.items()},
            first_text=tekken.config.default_num_special_tokens,
        ),
        Streaming(
            left_pad_tokens=audio.streaming_n_left_pad_tokens,
            right_pad_tokens=BOS_TOKENS + WORD_TOKENS,
            look_back_samples=config.audio.n_fft // 2,
            look_ahead_samples=config.audio.n_fft // 2 - config.audio.hop_length,
            max_chunk_tokens=MAX_CHUNK_TOKENS,
            default_delay_tokens=_delay_tokens(
                "tekken.json: transcription delay", audio.transcription_delay_ms, ms_per_token
            ),
            max_delay_tokens=MAX_DELAY_TOKENS,
            trained_delay_tokens=trained,
        ),
    )


def _delay_tokens(what: str, delay_ms: float, ms_per_token: int) -> int:
    longest = MAX_DELAY_TOKENS * ms_per_token
    if delay_ms % ms_per_token or not ms_per_token <= delay_ms <= longest:
        raise CheckpointError(
            f"{what}: expected a multiple of {ms_per_token} ms up to {longest}, got {delay_ms:g} ms"
        )
    return int(delay_ms // ms_per_token)


def _check(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise CheckpointError(
            f"tekken.json: {what}: expected {wanted} as in the hyperparameters, got {found}"
        )
