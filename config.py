"""Hyperparameters of the model, parsed once from either checkpoint layout.

They are passed on as frozen objects.

Field names are Hugging Face's. Mistral's `params.json` words appear only in
`VoxtralConfig.from_params`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from .decode import Size, convert
from .errors import CheckpointError
from .escaping import quoted
from .limits import FASTEST_RATE, SLOWEST_RATE

Rate = Annotated[int, Meta(ge=SLOWEST_RATE, le=FASTEST_RATE)]  # Hz
Layers = Annotated[int, Meta(ge=1, le=1024)]  # bounded, as each adds tensors and graph nodes
Positive = Annotated[float, Meta(gt=0, le=1e18)]
Window = Annotated[int, Meta(ge=1, le=1 << 19)]  # keys; its cache has a quarter more rows
LogMel = Annotated[float, Meta(ge=-100, le=100)]


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """Hyperparameters of the log-mel front end."""

    sample_rate: Rate
    n_fft: Size  # samples; also the window's length
    hop_length: Size  # samples between mel frames
    n_mels: Size
    global_log_mel_max: LogMel  # fixed maximum of log10(mel); values below max - 8 are raised to it
    frames_per_token: Size  # mel frames that become one decoder position

    @property
    def samples_per_token(self) -> int:
        """Return the number of samples that become one decoder position: 1280, which are 80 ms."""
        return self.hop_length * self.frames_per_token


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Hyperparameters that encoder layers and decoder layers have in common."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    sliding_window: Window  # keys a query sees, itself included
    rope_theta: Positive
    rms_norm_eps: Positive

    @property
    def q_size(self) -> int:
        """Return the width of all query heads, which differs from `hidden_size`."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Return the width of all key (or value) heads."""
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class EncoderConfig(TransformerConfig):
    """Hyperparameters of the causal audio encoder."""

    downsample_factor: Size  # encoder frames joined into one audio embedding


@dataclass(frozen=True, slots=True)
class DecoderConfig(TransformerConfig):
    """Hyperparameters of the decoder, which is conditioned on the delay."""

    vocab_size: Size
    time_embedding_rank: Size  # inner width of the delay's two-layer network


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

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values in declaration order."""
        return asdict(self)

    @classmethod
    def from_params(cls, params: Mapping[str, object]) -> VoxtralConfig:
        """Read Mistral's `params.json`.

        Null values count as absent, and keys that no graph depends on are accepted.

        Raises:
            CheckpointError: a key is missing or unknown, or has a value that this architecture does
                not have.
        """
        top = _convert(_Params, "params.json", _without_nulls("params.json", params))
        whisper = top.multimodal.whisper_model_args
        encoder, audio = whisper.encoder_args, whisper.encoder_args.audio_encoding_args
        frames_per_token = audio.sampling_rate / (audio.frame_rate * audio.hop_length)
        _expect("params.json: mel frames a token", frames_per_token, round(frames_per_token))
        config = {
            "audio": {
                "sample_rate": audio.sampling_rate,
                "n_fft": audio.window_size,
                "hop_length": audio.hop_length,
                "n_mels": audio.num_mel_bins,
                "global_log_mel_max": audio.global_log_mel_max,
                "frames_per_token": round(frames_per_token),
            },
            "encoder": encoder.stack()
            | {"downsample_factor": whisper.downsample_args.downsample_factor},
            "decoder": top.stack()
            | {
                "vocab_size": top.vocab_size,
                "time_embedding_rank": top.ada_rms_norm_t_cond_dim,
            },
        }
        return _convert(cls, "params.json", config)

    @classmethod
    def from_hf(
        cls, config: Mapping[str, object], processor: Mapping[str, object]
    ) -> VoxtralConfig:
        """Read Hugging Face's `config.json` and `processor_config.json`.

        Keys that only describe training or the library are ignored.

        Raises:
            CheckpointError: a key is missing, or has a value that this architecture does not have.
        """
        top = _convert(_HfConfig, "config.json", _without_nulls("config.json", config))
        audio = _convert(_HfProcessor, "processor_config.json", processor).feature_extractor
        encoder, decoder = top.audio_config, top.text_config
        _expect("processor_config.json: 'win_length'", audio.win_length, audio.n_fft)
        _expect("config.json: audio_config.num_mel_bins", encoder.num_mel_bins, audio.feature_size)
        values = {
            "audio": {
                "sample_rate": audio.sampling_rate,
                "n_fft": audio.n_fft,
                "hop_length": audio.hop_length,
                "n_mels": audio.feature_size,
                "global_log_mel_max": audio.global_log_mel_max,
                "frames_per_token": top.audio_length_per_tok,
            },
            # The encoder always has full multi-head attention.
            "encoder": encoder.stack(encoder.num_attention_heads)
            | {"downsample_factor": top.downsample_factor},
            "decoder": decoder.stack(decoder.num_key_value_heads)
            | {
                "vocab_size": decoder.vocab_size,
                "time_embedding_rank": HF_TIME_EMBEDDING_RANK,
            },
        }
        return _convert(cls, "config.json", values)


# A literal in transformers' VoxtralRealtimeTextAdaRmsNorm, absent from config.json
HF_TIME_EMBEDDING_RANK = 32


class _MistralStack(Struct, frozen=True, forbid_unknown_fields=True):
    """The keys that `params.json` has for the encoder and for the decoder alike."""

    dim: Size
    n_layers: Layers
    head_dim: Size
    hidden_dim: Size
    n_heads: Size
    n_kv_heads: Size
    use_biases: bool
    causal: bool
    rope_theta: Positive
    norm_eps: Positive
    vocab_size: Size
    sliding_window: Window

    def stack(self) -> dict[str, int | float]:
        """Return the fields of a `TransformerConfig`."""
        return {
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "sliding_window": self.sliding_window,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
        }


class _AudioEncodingArgs(Struct, frozen=True, forbid_unknown_fields=True):
    sampling_rate: Rate
    frame_rate: Annotated[float, Meta(ge=0.1, le=1000)]
    num_mel_bins: Size
    hop_length: Size
    window_size: Size
    global_log_mel_max: LogMel
    transcription_format: Literal["streaming"]
    chunk_length_s: float | None = None


class _EncoderArgs(_MistralStack, frozen=True, forbid_unknown_fields=True, kw_only=True):
    audio_encoding_args: _AudioEncodingArgs
    pos_embed: Literal["rope"]
    ffn_type: Literal["swiglu"]
    norm_type: Literal["rms_norm"]
    use_cache: bool | None = None
    max_source_positions: int | None = None

    def __post_init__(self):
        _expect("'use_biases'", self.use_biases, True)
        _expect("'causal'", self.causal, True)


class _DownsampleArgs(Struct, frozen=True, forbid_unknown_fields=True):
    downsample_factor: Annotated[int, Meta(ge=1, le=64)]


class _WhisperModelArgs(Struct, frozen=True, forbid_unknown_fields=True):
    encoder_args: _EncoderArgs
    downsample_args: _DownsampleArgs


class _Multimodal(Struct, frozen=True, forbid_unknown_fields=True):
    whisper_model_args: _WhisperModelArgs


class _Params(_MistralStack, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tied_embeddings: bool
    ada_rms_norm_t_cond: bool
    ada_rms_norm_t_cond_dim: Size
    multimodal: _Multimodal
    model_parallel: int | None = None
    model_max_length: int | None = None
    max_position_embeddings: int | None = None

    def __post_init__(self):
        _expect("'use_biases'", self.use_biases, False)
        _expect("'causal'", self.causal, True)
        _expect("'tied_embeddings'", self.tied_embeddings, True)
        _expect("'ada_rms_norm_t_cond'", self.ada_rms_norm_t_cond, True)


class _Rope(Struct, frozen=True):
    rope_type: Literal["default"]
    rope_theta: Positive
    partial_rotary_factor: float = 1.0

    def __post_init__(self):
        _expect("'partial_rotary_factor'", self.partial_rotary_factor, 1.0)


class _HfStack(Struct, frozen=True):
    """The keys that `config.json` has for the encoder and for the decoder alike."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    head_dim: Size
    sliding_window: Window
    rms_norm_eps: Positive
    hidden_act: Literal["silu"]
    # transformers 5 writes the first, earlier versions the second
    rope_parameters: _Rope | None = None
    rope_theta: Positive | None = None
    rope_scaling: dict[str, object] | None = None  # of earlier versions

    def __post_init__(self):
        if self.rope_scaling and self.rope_scaling.get("rope_type", "default") != "default":
            _expect("'rope_scaling'", self.rope_scaling, None)
        if self.rope_parameters is None and self.rope_theta is None:
            raise ValueError("expected `rope_parameters` or `rope_theta`, got neither")
        if self.rope_parameters is not None and self.rope_theta is not None:
            _expect("'rope_theta'", self.rope_theta, self.rope_parameters.rope_theta)

    def stack(self, num_key_value_heads: int) -> dict[str, int | float | None]:
        """Return the fields of a `TransformerConfig`."""
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": num_key_value_heads,
            "head_dim": self.head_dim,
            "sliding_window": self.sliding_window,
            "rope_theta": self.rope_parameters.rope_theta
            if self.rope_parameters
            else self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
        }


class _HfEncoder(_HfStack, frozen=True, kw_only=True):
    activation_function: Literal["gelu"]
    num_mel_bins: Size


class _HfDecoder(_HfStack, frozen=True, kw_only=True):
    num_key_value_heads: Size
    vocab_size: Size
    tie_word_embeddings: bool | None = None


class _HfConfig(Struct, frozen=True):
    model_type: Literal["voxtral_realtime"]
    projector_hidden_act: Literal["gelu"]
    audio_config: _HfEncoder
    text_config: _HfDecoder
    audio_length_per_tok: Size
    downsample_factor: Annotated[int, Meta(ge=1, le=64)]
    # Here in some versions, in `text_config` in others; nowhere where it is transformers' default
    tie_word_embeddings: bool | None = None

    def __post_init__(self):
        places = self.text_config.tie_word_embeddings, self.tie_word_embeddings
        tied = next((value for value in places if value is not None), True)
        _expect("'tie_word_embeddings'", tied, True)


class _HfFeatureExtractor(Struct, frozen=True):
    feature_size: Size
    n_fft: Size
    win_length: Size
    hop_length: Size
    sampling_rate: Rate
    global_log_mel_max: LogMel


class _HfProcessor(Struct, frozen=True):
    feature_extractor: _HfFeatureExtractor


def _convert(kind, name: str, values: object):
    return convert(
        kind,
        values,
        lambda reason: CheckpointError(
            f"{name}: {reason}; not a Voxtral Realtime model, or another version of it"
        ),
    )


def _without_nulls(name: str, values: Mapping[str, object]) -> dict[str, object]:
    try:
        return {
            key: _without_nulls(name, value) if isinstance(value, Mapping) else value
            for key, value in values.items()
            if value is not None
        }
    except RecursionError:
        raise CheckpointError(f"{name}: nested too deeply") from None


def _expect(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise CheckpointError(f"{what}: expected {wanted!r}, got {quoted(found)}")


RELEASED_NAME = "mistralai/Voxtral-Mini-4B-Realtime-2602"
# From its model card
RELEASED_LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh")
RELEASED = VoxtralConfig(  # for files that do not state their hyperparameters
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
