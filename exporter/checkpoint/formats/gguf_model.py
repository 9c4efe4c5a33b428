"""Recognise whose GGUF a file is, and read what its metadata says of the model.

Converters disagree about everything but the container: names, order of rows, and how much of the
checkpoint beside the weights they keep.

    audio.cpp    whole files, config.json and tekken.json among them, and the names and shapes that
                 the container cannot hold
    CrispASR     hyperparameters one by one, and a vocabulary without the facts of streaming
    this project hyperparameters as JSON, for models that are not the released one
    others       nothing: the hyperparameters are those of the released model

Sources: audio.cpp's `tensor_source.cpp`, CrispASR's `convert-voxtral4b-to-gguf.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ....config import RELEASED, RELEASED_NAME, VoxtralConfig
from ....decode import decode
from ....errors import CheckpointError
from ....escaping import quoted
from ....limits import PARAMS
from ....manifest import TOKENIZER
from ..names import DELAY_NETWORK
from ..schemes import GGUF_SCHEMES, NamingScheme
from ..tensors import Tensor
from . import gguf
from .shards import SPLIT_IN_TWO

CONFIG = "voxtral_onnx.config"  # hyperparameters as JSON
EMBEDDED = "audiocpp.embedded_files."  # what the keys of audio.cpp's files begin with
_ALIAS = "_audiocpp."  # begins what stands for a name that is too long for the container
_FILES = ("params.json", "config.json", "processor_config.json", TOKENIZER)
_CRISPASR = "voxtral4b."
_CRISPASR_KEYS = {  # to the fields of our configuration
    "audio": {
        "sample_rate": "sample_rate",
        "n_fft": "n_fft",
        "hop_length": "hop_length",
        "n_mels": "n_mels",
    },
    "encoder": {
        "hidden_size": "audio.d_model",
        "intermediate_size": "audio.ff_dim",
        "num_hidden_layers": "audio.n_layers",
        "num_attention_heads": "audio.n_heads",
        "num_key_value_heads": "audio.n_heads",
        "head_dim": "audio.head_dim",
        "sliding_window": "audio.sliding_window",
        "rope_theta": "audio.rope_theta",
        "downsample_factor": "proj.frame_stack",
    },
    "decoder": {
        "hidden_size": "llm.d_model",
        "intermediate_size": "llm.ff_dim",
        "num_hidden_layers": "llm.n_layers",
        "num_attention_heads": "llm.n_heads",
        "num_key_value_heads": "llm.n_kv_heads",
        "head_dim": "llm.head_dim",
        "sliding_window": "llm.sliding_window",
        "rope_theta": "llm.rope_theta",
        "rms_norm_eps": "llm.rms_norm_eps",
        "vocab_size": "llm.vocab_size",
        "time_embedding_rank": "llm.ada_norm_dim",
    },
}
_SPLIT_ENCODER = re.compile(r"(a|mm)\.\S+")  # names in llama.cpp's mmproj files
_SPLIT_DECODER = re.compile(r"blk\.\d+\.\w*ada_norm\S*")  # gains, in the decoder beside one


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A model as one GGUF holds it."""

    scheme: NamingScheme
    config: VoxtralConfig
    tensors: dict[str, Tensor]  # by the scheme's names
    tokenizer: bytes | None  # content of tekken.json, where the file holds it


def read_gguf_model(source: Path, shards: Sequence[Path]) -> GgufModel:
    """Open a GGUF and read its model's naming scheme, hyperparameters and tokenizer.

    Args:
        source: what the user named, for messages.
        shards: the whole file, or all of its shards in order.

    Raises:
        CheckpointError: as `gguf.open_gguf`; or the file is of another model or an unknown
            converter, or its metadata is wrong.
        StorageError: this process may not map that much memory.
    """
    found, metadata = gguf.open_gguf(shards)
    tensors = _with_exact_shapes(source, found, metadata)
    scheme = _recognise(source, tensors, metadata)
    files = _embedded_files(source, metadata)
    config = _read_config(source, metadata, files)
    return GgufModel(scheme, config, tensors, files.get(TOKENIZER))


def _with_exact_shapes(
    source: Path, found: dict[str, Tensor], metadata: Mapping[str, gguf.Value]
) -> dict[str, Tensor]:
    """Return the tensors under the names and in the shapes that audio.cpp writes beside them.

    The container drops leading axes of one value, and its names have at most 63 bytes.

    Raises:
        CheckpointError: the lists do not fit the tensors.
    """
    names = metadata.get("audiocpp.tensor_names", list(found))
    ranks, sizes = (metadata.get(f"audiocpp.tensor_{part}") for part in ("ranks", "shapes"))
    shapes = [list(tensor.shape) for tensor in found.values()]
    if ranks is not None or sizes is not None:
        shapes = _cut(ranks, sizes)
    if not isinstance(names, list) or not len(set(names)) == len(shapes) == len(found):
        raise CheckpointError(
            f"{source}: audiocpp.tensor_names, .tensor_ranks and .tensor_shapes: expected lists "
            f"for {len(found)} tensors, got others; convert it anew"
        )
    tensors = {}
    for name, shape, tensor in zip(names, shapes, found.values(), strict=True):
        if name != tensor.name and not tensor.name.startswith(_ALIAS):
            raise CheckpointError(
                f"{source}: {tensor.name}: audiocpp.tensor_names calls it {name}; convert it anew"
            )
        keeps_rows = tensor.encoding.block_size == 1 or shape[-1:] == [tensor.shape[-1]]
        if prod(shape) != prod(tensor.shape) or min(shape, default=1) < 1 or not keeps_rows:
            raise CheckpointError(
                f"{source}: {name}: audiocpp.tensor_shapes has {shape}, the tensor is "
                f"{tensor.encoding.name} {list(tensor.shape)}; convert it anew"
            )
        tensors[name] = replace(tensor, name=name, shape=tuple(shape))
    return tensors


def _are_integers(*lists: Any) -> bool:
    return all(isinstance(each, np.ndarray) and each.dtype.kind in "iu" for each in lists)


def _cut(ranks: Any, sizes: Any) -> list[list[int]]:
    """Return a list of sizes cut into shapes of these ranks; an empty one if they do not fit."""
    if not _are_integers(ranks, sizes):
        return []
    lengths = ranks.tolist()
    if min(lengths, default=0) < 0 or sum(lengths) != len(sizes):
        return []
    values = iter(sizes.tolist())
    return [[next(values) for _ in range(length)] for length in lengths]


def _recognise(
    source: Path, found: Mapping[str, Tensor], metadata: Mapping[str, gguf.Value]
) -> NamingScheme:
    """Return the naming scheme of a GGUF's tensors.

    Raises:
        CheckpointError: the file is of another model, a part of one, or of an unknown converter.
    """
    for scheme in GGUF_SCHEMES:
        if scheme.rename(DELAY_NETWORK) in found:
            return scheme
    if part := next(filter(_SPLIT_DECODER.fullmatch, found), None) or _mmproj_mark(found, metadata):
        raise CheckpointError(f"{source}: {part}: {SPLIT_IN_TWO}")
    known = "; ".join(f"{scheme.name}: {scheme.rename(DELAY_NETWORK)}" for scheme in GGUF_SCHEMES)
    kinds = ("general.architecture", "audiocpp.model_spec.family")
    kind = ", ".join(f"{key} {quoted(metadata[key])}" for key in kinds if key in metadata)
    raise CheckpointError(
        f"{source}: not a GGUF of Voxtral Realtime ({kind or 'it does not say of what'}), or made "
        f"by an unknown converter: expected a tensor of one of these schemes: {known}; found "
        f"{', '.join(sorted(found)[:3]) or 'none'}; take a GGUF of one of these, or the original "
        f"checkpoint: voxtral-onnx export {RELEASED_NAME}"
    )


def _mmproj_mark(found: Mapping[str, Tensor], metadata: Mapping[str, gguf.Value]) -> str | None:
    """Return by what a file is the encoder of a model that llama.cpp has split; None if it is not.

    Of such files the decoder alone may be recognised as another model's.
    """
    if metadata.get("general.type") == "mmproj" or metadata.get("general.architecture") == "clip":
        return next(filter(_SPLIT_ENCODER.fullmatch, found), "mmproj")
    return None


def _embedded_files(source: Path, metadata: Mapping[str, gguf.Value]) -> dict[str, bytes]:
    """Return the files that audio.cpp has put into a GGUF and that are needed here, by name.

    Raises:
        CheckpointError: the lists that hold them do not fit together.
    """
    parts: list[Any] = [
        metadata.get(EMBEDDED + part) for part in ("names", "contents", "offsets", "data")
    ]
    names, texts, offsets, data = parts
    if names is None:
        return {}
    contents = None
    if isinstance(texts, list):
        contents = [text.encode() for text in texts]
    elif _are_integers(offsets, data) and data.itemsize == 1:
        edges = list(pairwise(offsets.tolist()))
        if all(0 <= start <= stop <= len(data) for start, stop in edges):
            contents = [data[start:stop] for start, stop in edges]
    if not isinstance(names, list) or contents is None or len(contents) != len(names):
        raise CheckpointError(
            f"{source}: {EMBEDDED}*: expected names, and where each of these files begins and "
            "ends, got lists that do not fit; convert it anew"
        )
    wanted = zip(names, contents, strict=True)
    return {name: bytes(content) for name, content in wanted if name in _FILES}


def _read_config(
    source: Path, metadata: Mapping[str, gguf.Value], files: Mapping[str, bytes]
) -> VoxtralConfig:
    """Return the hyperparameters that a GGUF says, or the released model's if it says none.

    Raises:
        CheckpointError: they are damaged, or not those of this architecture.
    """
    if CONFIG in metadata:
        return _decode(source, CONFIG, str(metadata[CONFIG]).encode())
    crispasr = {key for key in metadata if key.startswith(_CRISPASR)}
    if crispasr:
        return _decode(source, f"{_CRISPASR}*", json.dumps(_crispasr_values(metadata)).encode())
    try:
        if "params.json" in files:
            return VoxtralConfig.from_params(_read_object("params.json", files))
        if "config.json" in files:
            return VoxtralConfig.from_hf(
                *(_read_object(name, files) for name in ("config.json", "processor_config.json"))
            )
    except CheckpointError as error:
        raise CheckpointError(f"{source}: the file in it, {error}") from error
    return RELEASED


def _decode(source: Path, what: str, content: bytes) -> VoxtralConfig:
    return decode(
        VoxtralConfig,
        content,
        lambda reason: CheckpointError(f"{source}: {what}: not the hyperparameters ({reason})"),
    )


def _read_object(name: str, files: Mapping[str, bytes]) -> dict[str, object]:
    """Decode one of the files in a GGUF.

    Raises:
        CheckpointError: it is not there, larger than such files are, or no JSON object.
    """
    if name not in files:
        raise CheckpointError(
            f"{name}: missing; convert it anew, with this file beside the weights"
        )
    if len(files[name]) > PARAMS:
        raise CheckpointError(
            f"{name}: expected at most {PARAMS:,} bytes, got {len(files[name]):,}; convert it anew"
        )
    return decode(
        dict[str, object],
        files[name],
        lambda reason: CheckpointError(f"{name}: not valid JSON ({reason}); convert it anew"),
    )


def _crispasr_values(metadata: Mapping[str, gguf.Value]) -> dict[str, dict[str, object]]:
    """Return the hyperparameters that CrispASR's keys have.

    What has no key is a constant in its code, and equal to the released model's.
    """
    values = RELEASED.to_dict()
    for part, keys in _CRISPASR_KEYS.items():
        for field, key in keys.items():
            value = metadata.get(_CRISPASR + key)
            if isinstance(value, float):
                value = float(str(np.float32(value)))  # 1e-05, not its rounding in 32 bits
            if value is not None:
                values[part][field] = value
    stack = values["encoder"]["downsample_factor"]
    if isinstance(stack, int):
        values["audio"]["frames_per_token"] = 2 * stack  # the convolutions halve the mel rate
    return values
