"""Make the configuration and tokenizer files that transformers.js and its like read first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ....config import TransformerConfig, VoxtralConfig
from ....errors import CheckpointError
from ....manifest import Streaming, Tokens
from ....tekken import Tekken
from .tokenizer_json import tokenizer_json

ROOT_NAMES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
DELAY_TOKENS = 6  # transformers.js's NUM_DELAY_TOKENS, which fixes the length of the prompt
_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
# Constants in the code of transformers.js's `processing_voxtral_realtime.js`
_PROCESSOR = {
    "<s>": 1,
    "[STREAMING_PAD]": 32,
    "tokens of silence before the audio": 32,
    "mel frames a token": 8,
}


def root_files(
    *,
    config: VoxtralConfig,
    tokens: Tokens,
    streaming: Streaming,
    tekken: Tekken,
    graphs: Mapping[str, Mapping[str, int]],
) -> dict[str, bytes]:
    """Return the content of the files ROOT_NAMES.

    graphs: the number of data files of each graph, by precision and graph file.

    Raises:
        CheckpointError: the checkpoint differs from the constants of transformers.js's processor,
            or its tokenizer lacks a pattern.
    """
    # Check the constants that transformers.js does not read from a file
    found = (
        tokens.bos,
        tokens.streaming_pad,
        streaming.left_pad_tokens,
        config.audio.frames_per_token,
    )
    for (name, expected), value in zip(_PROCESSOR.items(), found, strict=True):
        if value != expected:
            raise CheckpointError(
                f"family transformers_js: {name}: transformers.js needs {expected}, this "
                f"checkpoint has {value}; export with --family native"
            )

    # Name the special tokens that libraries know
    specials = tekken.names
    named = {name: text for name, text in _NAMED.items() if text in specials}
    ids = {"bos_token_id": tokens.bos, "eos_token_id": tokens.eos}
    pad = specials.index(_NAMED["pad_token"]) if "pad_token" in named else None

    extractor = _feature_extractor(config)
    processor = {"processor_class": "VoxtralRealtimeProcessor"}
    return {
        "config.json": _json(_config(config, ids, graphs)),
        # Generation ends with the audio, or at </s>, so there is no limit on its length
        "generation_config.json": _json({**ids, "pad_token_id": pad, "max_length": None}),
        "preprocessor_config.json": _json({**processor, **extractor}),
        "processor_config.json": _json({**processor, "feature_extractor": extractor}),
        "tokenizer.json": tokenizer_json(tekken),
        "tokenizer_config.json": _json({"tokenizer_class": "PreTrainedTokenizerFast", **named}),
    }


def _config(
    config: VoxtralConfig, ids: Mapping[str, int], graphs: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """Return `config.json`: the hyperparameters, and the numbers of data files of the graphs."""
    encoder, decoder = config.encoder, config.decoder
    counts = {
        PurePosixPath(path).name: count
        for files in graphs.values()
        for path, count in files.items()
    }

    # In the layout of transformers' VoxtralRealtimeConfig
    return {
        "architectures": ["VoxtralRealtimeForConditionalGeneration"],
        "model_type": "voxtral_realtime",
        "audio_length_per_tok": config.audio.frames_per_token,
        "default_num_delay_tokens": DELAY_TOKENS,
        "downsample_factor": encoder.downsample_factor,
        "hidden_size": decoder.hidden_size,
        "projector_hidden_act": "gelu",
        "audio_config": {
            "model_type": "voxtral_realtime_encoder",
            "num_mel_bins": config.audio.n_mels,
            "activation_function": "gelu",
            **_stack(encoder),
        },
        "text_config": {
            "model_type": "voxtral_realtime_text",
            "vocab_size": decoder.vocab_size,
            "tie_word_embeddings": True,
            **ids,
            **_stack(decoder),
        },
        "transformers.js_config": {"dtype": next(iter(graphs)), "use_external_data_format": counts},
    }


def _stack(stack: TransformerConfig) -> dict[str, Any]:
    return {
        "hidden_size": stack.hidden_size,
        "intermediate_size": stack.intermediate_size,
        "num_hidden_layers": stack.num_hidden_layers,
        "num_attention_heads": stack.num_attention_heads,
        "num_key_value_heads": stack.num_key_value_heads,
        "head_dim": stack.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": stack.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": stack.rope_theta},
        "sliding_window": stack.sliding_window,
    }


def _feature_extractor(config: VoxtralConfig) -> dict[str, Any]:
    audio = config.audio
    return {
        "feature_extractor_type": "VoxtralRealtimeFeatureExtractor",
        "feature_size": audio.n_mels,
        "n_fft": audio.n_fft,
        "win_length": audio.n_fft,
        "hop_length": audio.hop_length,
        "sampling_rate": audio.sample_rate,
        "global_log_mel_max": audio.global_log_mel_max,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
