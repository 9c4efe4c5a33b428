"""Hyperparameters of the model, parsed once from either checkpoint layout.

They are passed on as frozen objects.

Field names are Hugging Face's. Mistral's `params.json` words appear only in
`VoxtralConfig.from_params`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .errors import CheckpointError


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """The log-mel front end."""

    sample_rate: int  # Hz
    n_fft: int  # samples; also the window's length
    hop_length: int  # samples between mel frames
    n_mels: int
    global_log_mel_max: float  # fixed maximum of log10(mel); values below max - 8 are raised to it
    frames_per_token: int  # mel frames that become one decoder position

    @property
    def samples_per_token(self) -> int:
        """Samples that become one decoder position: 1280, which are 80 ms."""
        return self.hop_length * self.frames_per_token


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """What encoder and decoder layers have in common."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    sliding_window: int  # keys a query sees, itself included
    rope_theta: float
    rms_norm_eps: float

    @property
    def q_size(self) -> int:
        """Width of all query heads; differs from `hidden_size`."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads."""
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class EncoderConfig(TransformerConfig):
    """The causal audio encoder."""

    downsample_factor: int  # encoder frames joined into one audio embedding


@dataclass(frozen=True, slots=True)
class DecoderConfig(TransformerConfig):
    """The decoder, conditioned on the delay."""

    vocab_size: int
    time_embedding_rank: int  # inner width of the delay's two-layer network


@dataclass(frozen=True, slots=True)
class VoxtralConfig:
    """All of the model's hyperparameters."""

    audio: AudioConfig
    encoder: EncoderConfig
    decoder: DecoderConfig

    def __post_init__(self):
        frames = 2 * self.encoder.downsample_factor  # the conv stem halves the mel rate
        _expect("mel frames a token", self.audio.frames_per_token, frames)
        for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            if stack.num_attention_heads % stack.num_key_value_heads:
                raise CheckpointError(
                    f"{name}: {stack.num_attention_heads} query heads cannot share "
                    f"{stack.num_key_value_heads} key-value heads evenly"
                )
            if stack.head_dim % 2:
                raise CheckpointError(
                    f"{name}: head_dim {stack.head_dim} is odd, rotary embedding needs an even one"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VoxtralConfig:
        """The inverse of `to_dict`, for the manifest."""
        return cls(
            AudioConfig(**values["audio"]),
            EncoderConfig(**values["encoder"]),
            DecoderConfig(**values["decoder"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values in declaration order."""
        return asdict(self)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> VoxtralConfig:
        """Read Mistral's `params.json`.

        Raises:
            CheckpointError: a key is missing or unknown, or has a value that this architecture does
                not have.
        """
        top = _Section("params.json", params)
        multimodal = top.section("multimodal")
        whisper = multimodal.section("whisper_model_args")
        encoder = whisper.section("encoder_args")
        audio = encoder.section("audio_encoding_args")
        downsample = whisper.section("downsample_args")

        top.expect(use_biases=False, causal=True, tied_embeddings=True, ada_rms_norm_t_cond=True)
        encoder.expect(
            use_biases=True, causal=True, pos_embed="rope", ffn_type="swiglu", norm_type="rms_norm"
        )
        audio.expect(transcription_format="streaming")
        top.ignore("model_parallel", "model_max_length")
        encoder.ignore("vocab_size", "use_cache", "max_source_positions")
        audio.ignore("chunk_length_s")

        def stack(section: _Section) -> dict[str, Any]:
            return {
                "hidden_size": section.integer("dim"),
                "intermediate_size": section.integer("hidden_dim"),
                "num_hidden_layers": section.integer("n_layers"),
                "num_attention_heads": section.integer("n_heads"),
                "num_key_value_heads": section.integer("n_kv_heads"),
                "head_dim": section.integer("head_dim"),
                "sliding_window": section.integer("sliding_window"),
                "rope_theta": section.number("rope_theta"),
                "rms_norm_eps": section.number("norm_eps"),
            }

        sample_rate, hop_length = audio.integer("sampling_rate"), audio.integer("hop_length")
        frames_per_token = sample_rate / (audio.number("frame_rate") * hop_length)
        _expect("params.json: mel frames a token", frames_per_token, int(frames_per_token))
        config = cls(
            AudioConfig(
                sample_rate=sample_rate,
                n_fft=audio.integer("window_size"),
                hop_length=hop_length,
                n_mels=audio.integer("num_mel_bins"),
                global_log_mel_max=audio.number("global_log_mel_max"),
                frames_per_token=int(frames_per_token),
            ),
            EncoderConfig(
                **stack(encoder), downsample_factor=downsample.integer("downsample_factor")
            ),
            DecoderConfig(
                **stack(top),
                vocab_size=top.integer("vocab_size"),
                time_embedding_rank=top.integer("ada_rms_norm_t_cond_dim"),
            ),
        )
        for section in (top, multimodal, whisper, encoder, audio, downsample):
            section.finish()
        return config

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], processor: Mapping[str, Any]) -> VoxtralConfig:
        """Read Hugging Face's `config.json` and `processor_config.json`.

        Keys that only describe training or the library are not looked at.

        Raises:
            CheckpointError: a key is missing, or has a value that this architecture does not have.
        """
        top = _Section("config.json", config)
        top.expect(model_type="voxtral_realtime", projector_hidden_act="gelu")
        encoder, decoder = top.section("audio_config"), top.section("text_config")
        encoder.expect(hidden_act="silu", activation_function="gelu")
        decoder.expect(hidden_act="silu", tie_word_embeddings=True)
        audio = _Section("processor_config.json", processor).section("feature_extractor")
        n_fft = audio.integer("n_fft")
        audio.expect(win_length=n_fft)
        _expect(
            "config.json: audio_config.num_mel_bins",
            encoder.integer("num_mel_bins"),
            audio.integer("feature_size"),
        )

        def stack(section: _Section, num_key_value_heads: int) -> dict[str, Any]:
            rope = section.section("rope_parameters")
            rope.expect(rope_type="default")
            names = (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "head_dim",
            )
            return {
                **{name: section.integer(name) for name in names},
                "num_key_value_heads": num_key_value_heads,
                "sliding_window": section.integer("sliding_window"),
                "rope_theta": rope.number("rope_theta"),
                "rms_norm_eps": section.number("rms_norm_eps"),
            }

        return cls(
            AudioConfig(
                sample_rate=audio.integer("sampling_rate"),
                n_fft=n_fft,
                hop_length=audio.integer("hop_length"),
                n_mels=audio.integer("feature_size"),
                global_log_mel_max=audio.number("global_log_mel_max"),
                frames_per_token=top.integer("audio_length_per_tok"),
            ),
            EncoderConfig(
                # Always full multi-head attention
                **stack(encoder, encoder.integer("num_attention_heads")),
                downsample_factor=top.integer("downsample_factor"),
            ),
            DecoderConfig(
                **stack(decoder, decoder.integer("num_key_value_heads")),
                vocab_size=decoder.integer("vocab_size"),
                time_embedding_rank=HF_TIME_EMBEDDING_RANK,
            ),
        )


# A literal in transformers' VoxtralRealtimeTextAdaRmsNorm, absent from config.json
HF_TIME_EMBEDDING_RANK = 32


class _Section:
    """One JSON object that remembers which of its keys were read."""

    def __init__(self, path: str, values: Any):
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{path}: expected an object, got {type(values).__name__}")
        self.path, self.values, self.seen = path, values, set()

    def _get(self, key: str) -> Any:
        self.seen.add(key)
        if key not in self.values:
            raise CheckpointError(
                f"{self.path}: key '{key}' is missing; the file is not of a Voxtral Realtime model"
            )
        return self.values[key]

    def section(self, key: str) -> _Section:
        return _Section(f"{self.path}: {key}", self._get(key))

    def integer(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(
                f"{self.path}: '{key}': expected a positive integer, got {value!r}"
            )
        return value

    def number(self, key: str) -> float:
        value = self._get(key)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 < value < float("inf")
        ):
            raise CheckpointError(
                f"{self.path}: '{key}': expected a positive number, got {value!r}"
            )
        return float(value)

    def expect(self, **wanted: Any) -> None:
        for key, value in wanted.items():
            _expect(f"{self.path}: '{key}'", self._get(key), value)

    def ignore(self, *keys: str) -> None:
        self.seen.update(keys)

    def finish(self) -> None:
        if unknown := sorted(set(self.values) - self.seen):
            raise CheckpointError(
                f"{self.path}: unknown keys {unknown}; this is another version of the architecture"
            )


def _expect(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise CheckpointError(f"{what}: expected {wanted!r}, got {found!r}")


RELEASED_NAME = "mistralai/Voxtral-Mini-4B-Realtime-2602"
# Its model card
RELEASED_LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh")
RELEASED = VoxtralConfig(  # its hyperparameters, for files that do not say
    AudioConfig(
        sample_rate=16000,
        n_fft=400,
        hop_length=160,
        n_mels=128,
        global_log_mel_max=1.5,
        frames_per_token=8,
    ),
    EncoderConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=64,
        sliding_window=750,
        rope_theta=1e6,
        rms_norm_eps=1e-5,
        downsample_factor=4,
    ),
    DecoderConfig(
        hidden_size=3072,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=8192,
        rope_theta=1e6,
        rms_norm_eps=1e-5,
        vocab_size=131072,
        time_embedding_rank=32,
    ),
)
