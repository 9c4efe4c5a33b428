"""Read MLX checkpoints as mlx-audio and voxmlx write them: their names, their config, their groups.

    quantised matrix    x.weight U32 [N, K * bits / 32], x.scales [N, K / group_size], x.biases
                        a value is scale * code + bias, codes from 0 up
    convolution         x.weight [out, kernel, in]

Rotary rows are in Mistral's order. Sources: mlx-audio's `voxtral_realtime.py` (`sanitize`) and
`convert.py`, voxmlx's `convert.py`, MLX's `quantized.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct

from ....config import VoxtralConfig
from ....decode import convert
from ....errors import CheckpointError
from .. import names, schemes
from ..tensors import Tensor
from .compressed import UNQUANTISED
from .safetensors import FLOATS
from .scaled import Scaled, groups, integers

_QUANTISATION = ("quantization", "quantization_config")  # mlx-lm writes both, alike
_AUDIO = {  # parts of Mistral's names, in the order in which mlx-audio replaces them
    "mm_streams_embeddings.embedding_module.tok_embeddings": "decoder.tok_embeddings",
    "mm_streams_embeddings.embedding_module.whisper_encoder.": "encoder.",
    "mm_streams_embeddings.embedding_module.": "encoder.",
    "conv_layers.0.conv": "conv_layers_0_conv.conv",
    "conv_layers.1.conv": "conv_layers_1_conv.conv",
    "transformer.layers": "transformer_layers",
    "transformer.norm": "transformer_norm",
    "audio_language_projection.": "audio_language_projection_",
    "feed_forward.w": "feed_forward_w",
    "ada_rms_norm_t_cond.0": "ada_rms_norm_t_cond.ada_down",
    "ada_rms_norm_t_cond.2": "ada_rms_norm_t_cond.ada_up",
}
_VOXMLX = {  # parts of our names
    "audio_tower.embedder.": "encoder.",
    "audio_tower.": "encoder.",
    "multi_modal_projector.linear_1": "adapter.w_in",
    "multi_modal_projector.linear_2": "adapter.w_out",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "self_attn": "attention",
    "ada_rms_norm.linear1": "ada_norm.linear_in",
    "ada_rms_norm.linear2": "ada_norm.linear_out",
}


def mlx_audio_name(name: str) -> str:
    """Return a tensor's name in the files of mlx-audio."""
    renamed = _replace(schemes.mistral_name(name), _AUDIO)
    return renamed if renamed.startswith(("encoder.", "decoder.")) else f"decoder.{renamed}"


def voxmlx_name(name: str) -> str:
    """Return a tensor's name in the files of voxmlx."""
    return _replace(name, _VOXMLX)


def _replace(name: str, parts: Mapping[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


MLX_AUDIO = schemes.NamingScheme("mlx-audio", mlx_audio_name, interleaved=True)
VOXMLX = schemes.NamingScheme("voxmlx", voxmlx_name, interleaved=True)
# mlx-audio's own converter keeps Mistral's names, and its convolutions as they are
SCHEMES = (MLX_AUDIO, VOXMLX, schemes.MISTRAL)


class _Settings(Struct):
    group_size: Annotated[int, Meta(ge=1, le=1 << 16)]
    bits: Literal[2, 3, 4, 5, 6, 8]
    mode: Literal["affine"] = "affine"


@dataclass(frozen=True, slots=True)
class KernelFirst(Tensor):
    """A convolution [out, in, kernel] that is stored as [out, kernel, in]."""

    inner: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, inner: Tensor) -> KernelFirst:
        """Return the convolution that a tensor stores."""
        out, kernel, channels = inner.shape
        return cls(inner.name, (out, channels, kernel), inner.encoding, inner.span, inner=inner)

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a float32 copy of the rows [start, stop)."""
        return np.ascontiguousarray(self.inner.rows(start, stop).swapaxes(1, 2))


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Return whether a `config.json` is one of MLX's and not of transformers."""
    return "audio_config" not in config and ("multimodal" in config or "encoder_args" in config)


def read_mlx_config(config: Mapping[str, Any]) -> VoxtralConfig:
    """Read the hyperparameters of an MLX `config.json`: Mistral's, as they are or in two parts.

    Raises:
        CheckpointError: a key is missing, or has a value that this architecture does not have.
    """
    if "multimodal" in config:  # voxmlx
        return VoxtralConfig.from_params(
            {key: config[key] for key in config if key not in (*_QUANTISATION, "model_type")}
        )
    decoder, encoder = _object(config, "decoder"), _object(config, "encoder_args")
    audio = _object(encoder if "audio_encoding_args" in encoder else config, "audio_encoding_args")
    factor = encoder.get("downsample_factor")
    # mlx-audio leaves out what its code has no other value for
    encoder = {
        "vocab_size": decoder.get("vocab_size"),
        "pos_embed": "rope",
        "ffn_type": "swiglu",
        "norm_type": "rms_norm",
        **{key: encoder[key] for key in encoder if key != "downsample_factor"},
        "audio_encoding_args": {"transcription_format": "streaming", **audio},
    }
    whisper = {"encoder_args": encoder, "downsample_args": {"downsample_factor": factor}}
    return VoxtralConfig.from_params(
        {
            "use_biases": False,
            "causal": True,
            **decoder,
            "multimodal": {"whisper_model_args": whisper},
        }
    )


def scheme_of(found: Mapping[str, Tensor]) -> schemes.NamingScheme:
    """Return the naming scheme of an MLX checkpoint; mlx-audio's where it is none of them."""
    return next((one for one in SCHEMES if one.rename(names.EMBEDDING) in found), MLX_AUDIO)


def join_mlx(
    where: str, found: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Join the parts of each quantised matrix, and turn convolutions, of an MLX checkpoint.

    Args:
        where: the checkpoint, for messages.
        found: its tensors by stored name.
        config: its `config.json`.

    Raises:
        CheckpointError: the parts of a matrix do not fit each other or the config.
    """
    one, other = (config.get(key) for key in _QUANTISATION)
    if one is not None and other is not None and one != other:
        raise CheckpointError(
            f"{where}: config.json: expected one quantization, got two that differ; {UNQUANTISED}"
        )
    tensors, scheme = dict(found), scheme_of(found)
    for module in [name.removesuffix(".scales") for name in found if name.endswith(".scales")]:
        parts = [tensors.pop(f"{module}.{part}", None) for part in ("weight", "scales", "biases")]
        tensors[f"{module}.weight"] = _grouped(where, f"{module}.weight", parts, config)
    if scheme is not schemes.MISTRAL:
        for conv in ("conv1", "conv2"):
            name = scheme.rename(f"audio_tower.embedder.{conv}.weight")
            if name in tensors and len(tensors[name].shape) == 3:
                tensors[name] = KernelFirst.of(tensors[name])
    return tensors


def _grouped(
    where: str, name: str, parts: Sequence[Tensor | None], config: Mapping[str, Any]
) -> Scaled:
    """Return a matrix in groups, of the bits and size that the config has for it or for all."""
    settings = next((config[key] for key in _QUANTISATION if key in config), None)
    own = settings.get(name.removesuffix(".weight")) if isinstance(settings, dict) else None
    found = convert(
        _Settings,
        own if isinstance(own, dict) else settings,
        lambda reason: CheckpointError(
            f"{where}: config.json: quantization: {name}: {reason}; {UNQUANTISED}"
        ),
    )

    # Check that the parts make up a matrix
    codes, scales, biases = parts
    bits, size = found.bits, found.group_size
    if codes is not None and scales is not None and biases is not None:
        shape = (codes.shape[0], codes.shape[-1] * 32 // bits) if len(codes.shape) == 2 else (0, 0)
        grid = shape[0], shape[1] // size
        if (
            codes.encoding.name == "U32"
            and scales.encoding in FLOATS
            and biases.encoding in FLOATS
            and scales.shape == biases.shape == grid
            and all(grid)
            and codes.shape[-1] * 32 == grid[1] * size * bits
        ):
            codes = replace(codes, shape=shape, encoding=integers(bits))
            return Scaled.of(name, groups(f"MLX {bits}-bit", size, bits), codes, scales, biases)
    got = ", ".join(f"{part.encoding.name} {list(part.shape)}" for part in parts if part)
    raise CheckpointError(
        f"{where}: {name}: expected U32 [N, K * {bits} / 32], and scales and biases "
        f"[N, K / {size}] in floats, got {got}"
    )


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise CheckpointError(f"config.json: expected an object {key!r}, as mlx-audio writes it")
    return found
