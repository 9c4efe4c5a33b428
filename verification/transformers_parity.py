"""Rung 2: compare the modules behind the graphs with transformers' own class.

Both run a small random model with the artifact's ratios.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ..config import VoxtralConfig
from ..exporter.checkpoint.open import open_checkpoint
from ..exporter.model.parameters import PartFactory, decoder_parts, encoder_parts
from ..exporter.model.voxtral import Decoder, Encoder
from ..manifest import Manifest
from ..quant.recipe import FLOAT
from .layerwise import fill, rotation
from .stage_parity import relative_error

TOKENS, DELAY = 48, 6  # length of the recording; both sliding windows are shorter
SCALE = 0.3  # of the embeddings, small enough that the head does not just repeat its input


def compare_with_transformers(manifest: Manifest) -> float:
    """Return the relative error of audio embeddings or logits, whichever is larger.

    The model has two layers a stack, small windows and the artifact's own ratios of heads; its
    random weights are saved by transformers, opened like any checkpoint, and run by the exporter's
    modules.
    """
    from transformers.utils import logging

    # Draw inputs
    config = _small(manifest.config)
    rng = np.random.default_rng(0)
    frames = TOKENS * config.audio.frames_per_token
    features = torch.from_numpy(
        rng.standard_normal((1, config.audio.n_mels, frames), dtype=np.float32)
    )
    ids = torch.from_numpy(rng.integers(0, config.decoder.vocab_size, (1, TOKENS)))
    with TemporaryDirectory() as name, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")

        # Save the random model as a checkpoint
        folder = Path(name)
        model = _random_model(config)
        logging.disable_progress_bar()
        model.save_pretrained(folder)
        extractor = {"feature_size": config.audio.n_mels, "n_fft": config.audio.n_fft}
        extractor |= {"win_length": config.audio.n_fft, "hop_length": config.audio.hop_length}
        extractor |= {
            "sampling_rate": config.audio.sample_rate,
            "global_log_mel_max": config.audio.global_log_mel_max,
        }
        (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor}))
        (folder / "tekken.json").write_text("{}")

        # Load it into the exporter's modules
        checkpoint = open_checkpoint(folder)
        build, tokens = PartFactory("float32", FLOAT), replace(manifest.tokens, streaming_pad=0)
        parts = encoder_parts(build, config), decoder_parts(build, config, tokens)
        encoder, decoder = Encoder(parts[0], config), Decoder(parts[1], config, tokens)
        for module, of_module in zip((encoder, decoder), parts, strict=True):
            fill(module, of_module, checkpoint)

        # Run transformers' class
        encoded = model.model.get_audio_features(features, use_cache=False)
        wanted_embeds = getattr(encoded, "pooler_output").reshape(1, TOKENS, -1)  # noqa: B009, of a union of types
        wanted = model(
            input_ids=ids, input_features=features, num_delay_tokens=DELAY, use_cache=False
        ).logits
        assert wanted is not None

        # Run the exporter's modules
        rows = TOKENS * config.encoder.downsample_factor
        states = (
            torch.zeros(1, config.audio.n_mels, 2),
            torch.zeros(1, config.encoder.hidden_size, 1),
        )
        embeds = encoder(features, *states, *_from_start(config.encoder, rows))[0]
        at, past = _from_start(config.decoder, TOKENS)[:4], _from_start(config.decoder, TOKENS)[4:]
        logits = decoder(ids, embeds, torch.tensor([DELAY]), *at, torch.zeros(1, TOKENS), *past)[2]
    pairs = ((embeds, wanted_embeds), (logits, wanted))
    return max(relative_error(got.numpy(), want.numpy()) for got, want in pairs)


def _from_start(stack, rows: int) -> tuple[torch.Tensor, ...]:
    """Return rotation, lengths and empty caches, as a call over all rows takes them."""
    last, total = torch.tensor([rows - 1], dtype=torch.int32), torch.tensor(rows, dtype=torch.int32)
    caches = (
        torch.zeros(1, stack.num_key_value_heads, rows, stack.head_dim)
        for _ in range(2 * stack.num_hidden_layers)
    )
    return (*rotation(stack, 0, rows), last, total, *caches)


def _small(config: VoxtralConfig) -> VoxtralConfig:
    def shrink(stack, window: int):
        kv_heads = 2
        heads = kv_heads * (stack.num_attention_heads // stack.num_key_value_heads)
        sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "head_dim": 16}
        return replace(
            stack,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            sliding_window=window,
            **sizes,
        )

    decoder = replace(shrink(config.decoder, TOKENS // 2), vocab_size=512)
    return replace(config, encoder=shrink(config.encoder, TOKENS), decoder=decoder)


def _random_model(config: VoxtralConfig):
    """Return transformers' class with random weights that are larger than its own initialisation.

    With that, it repeats one token.
    """
    from transformers import VoxtralRealtimeConfig, VoxtralRealtimeForConditionalGeneration

    # Configure
    def stack(part) -> dict:
        names = (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "head_dim",
        )
        return {
            **{name: getattr(part, name) for name in (*names, "sliding_window", "rms_norm_eps")},
            "rope_parameters": {"rope_type": "default", "rope_theta": part.rope_theta},
        }

    decoder = {
        "num_key_value_heads": config.decoder.num_key_value_heads,
        "vocab_size": config.decoder.vocab_size,
    }
    settings = VoxtralRealtimeConfig(
        audio_config={"num_mel_bins": config.audio.n_mels, **stack(config.encoder)},
        text_config={**decoder, **stack(config.decoder)},
    )
    model = VoxtralRealtimeForConditionalGeneration(settings).eval()

    # Draw weights
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = SCALE if "embed_tokens" in name else 1.5 / parameter[0].numel() ** 0.5
            parameter.normal_(0, scale, generator=generator)
        else:
            parameter.normal_(0.0 if "bias" in name else 1.0, 0.1, generator=generator)
    model.tie_weights()
    return model
