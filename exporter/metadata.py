"""What every graph file says of itself, for hosts that read an ONNX file's metadata and no manifest.

sherpa-onnx and icefall keep a model's constants there, as strings; onnxruntime gives them as
`get_modelmeta().custom_metadata_map`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import onnx_ir as ir

from .. import __version__
from ..config import VoxtralConfig
from ..manifest import Streaming, Tokens

MODEL_TYPE = "voxtral_realtime"  # transformers' word


def describe(
    model: ir.Model,
    family: str,
    role: str,
    config: VoxtralConfig,
    tokens: Tokens,
    streaming: Streaming,
    license: str | None,
) -> ir.Model:
    """Give a graph its metadata; the values of the manifest under the names that they have there.

    Those of encoder and decoder begin with `encoder_` and `decoder_`, ids of tokens end with `_id`, and lists are
    numbers with commas between.
    """
    values: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "family": family,
        "role": role,
        "generator": f"voxtral-onnx {__version__}",
        "license": license or "unknown",
        **asdict(config.audio),
        **{f"encoder_{name}": value for name, value in asdict(config.encoder).items()},
        **{f"decoder_{name}": value for name, value in asdict(config.decoder).items()},
        **{f"{name}_id": value for name, value in asdict(tokens).items()},
        **asdict(streaming),
    }
    model.metadata_props.clear()
    for name, value in values.items():
        model.metadata_props[name] = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return model
