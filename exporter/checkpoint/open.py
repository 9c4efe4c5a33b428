"""Open checkpoints of any layout as lazy tensors under one set of names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from ...assets import TINY
from ...config import RELEASED_NAME, VoxtralConfig
from ...decode import Name, Sentence, decode
from ...errors import CheckpointError
from ...files import is_lfs_pointer
from ...limits import PARAMS, TOKENIZER
from ...manifest import FILE_NAME as ARTIFACT
from . import names, schemes
from .formats import foreign, mlx
from .formats.compressed import check_config, join_compressed
from .formats.gguf_model import read_gguf_model
from .formats.safetensors import open_hf_files, open_safetensors, read_bytes, read_object
from .formats.scaled import notes_on
from .formats.shards import find, is_gguf
from .tensors import Tensor

PROCESSOR = "processor_config.json"
PROCESSOR_URL = f"https://huggingface.co/{RELEASED_NAME}/resolve/main/{PROCESSOR}"
_PARAMS, _CONSOLIDATED = "params.json", "consolidated.safetensors"
_CONFIG, _QUANTISED = "config.json", "quantization"
_SUFFIXES = {".safetensors", ".json"}
_COMPARED_ROWS = 1024  # of two matrices at a time
_WEIGHTS = ("consolidated", "model", "weights")  # beginnings of the names of weight files


class Card(Struct, frozen=True, forbid_unknown_fields=True):
    """The optional `card.json`: facts that neither hyperparameters nor tokenizer have."""

    scope: Sentence | None = None  # shown to users
    # The default is from Mistral's model card
    trained_delays_ms: tuple[Annotated[int, Meta(ge=1, le=60_000)], ...] = (
        *range(80, 1201, 80),
        2400,
    )
    license: Name | None = None  # the hub's identifier for the weights' licence


RELEASED_CARD = Card(license="apache-2.0")  # of a checkpoint without a card


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's hyperparameters, tensors and tokenizer, whatever the layout on disk."""

    source: Path  # a folder, or a file
    layout: str
    config: VoxtralConfig
    tensors: Mapping[str, Tensor]  # those of `names.tensor_shapes`; an artifact's of `held_shapes`
    tokenizer: bytes  # content of tekken.json
    card: Card
    # Size, and modification time in nanoseconds, of each file when it was opened
    files: Mapping[Path, tuple[int, int]]
    # Graphs of an artifact that this version exported, by role
    graphs: Mapping[str, Path] = field(default_factory=dict)
    known_fingerprint: str | None = None  # from an artifact's manifest
    notes: tuple[str, ...] = ()  # sentences about the weights that whoever exports them should know

    def fingerprint(self) -> str:
        """Return a sha256 of the hyperparameters and the first row of every tensor.

        It is the same for every layout of a checkpoint.
        """
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.rows(0, None if len(tensor.shape) == 1 else 1).tobytes())
            tensor.release(0, 1)
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Check that sizes and modification times of the files are those at opening.

        Raises:
            CheckpointError: some files changed while they were read; the message names them.
        """
        now = versions(self.files)
        if changed := sorted(path.name for path in self.files if self.files[path] != now.get(path)):
            raise CheckpointError(
                f"{self.source}: changed while it was read: {', '.join(changed)}; export again "
                "when nothing writes to it"
            )

    def num_bytes(self, *prefixes: str) -> int:
        """Return the stored bytes of the tensors whose names begin with one of some prefixes."""
        return sum(
            tensor.num_bytes
            for name, tensor in self.tensors.items()
            if name.startswith(prefixes or "")
        )


def resolve_source(source: str | Path) -> Path:
    """Return the path of a checkpoint, that of the packaged one for "tiny" unless a folder is."""
    return TINY if str(source) == "tiny" and not Path(source).is_dir() else Path(source)


def open_checkpoint(source: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Open a folder in Mistral's, Hugging Face's or MLX's layout, or a GGUF; check its tensors.

    Mistral: `params.json`, `consolidated.safetensors`. Hugging Face: `config.json`,
    `processor_config.json`, `model.safetensors` or `model.safetensors.index.json` with shards.
    Mistral's is read where a folder has both. MLX: as mlx.py has it. The weights may be quantised
    as compressed.py has it. GGUF: one file, or its shards as `shards.find` describes; no
    safetensors may be in its folder.

    Args:
        source: the folder, the file, or a pattern of shards.
        tokenizer: Mistral's `tekken.json`; by default the one in the GGUF, else the one beside the
            weights.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, unknown or misshapen.
    """
    # Tell the layouts apart
    _require_files(source)
    _refuse_pointers(source)
    if (source / ARTIFACT).exists():
        raise CheckpointError(
            f"{source}: an artifact, not a checkpoint; name the checkpoint it was exported from"
        )
    _refuse_two_models(source)
    if not _has_safetensors(source) and (shards := _find_gguf(source)):
        return _open_gguf(source, shards, tokenizer)
    if not source.is_dir():
        raise CheckpointError(
            f"{source}: expected a checkpoint folder or a GGUF, found "
            f"{'a file' if source.exists() else 'nothing'}"
        )

    # Open the files
    try:
        files = versions(path for path in sorted(source.iterdir()) if path.suffix in _SUFFIXES)
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read ({error.strerror or error})") from error
    if not _has_safetensors(source):
        found = (*source.glob("*"), *source.glob("*/*"))
        foreign.refuse_files(str(source), [str(path.relative_to(source)) for path in found])
    config = read_config(source)
    found, scheme = _open_weights(source)

    # Check the tensors and read the small files
    tensors = _check_tensors(source, found, config, scheme)
    content = read_bytes(tokenizer or source / "tekken.json", TOKENIZER)
    facts = source, scheme.name, config, tensors, content, read_card(source), files
    return Checkpoint(*facts, notes=notes_on(tensors))


def read_config(folder: Path) -> VoxtralConfig:
    """Read the hyperparameters of a checkpoint folder of any layout.

    Raises:
        CheckpointError: the folder has none, or they are not those of this architecture.
    """
    if _is_mistral(folder):
        params = read_object(folder / _PARAMS, PARAMS)
        return VoxtralConfig.from_params({key: params[key] for key in params if key != _QUANTISED})
    if not (folder / _CONFIG).exists():
        raise CheckpointError(
            f"{folder}: expected params.json (Mistral's layout), config.json (Hugging Face's) or a "
            "GGUF, found none of them"
        )
    config = read_object(folder / _CONFIG, PARAMS)
    if mlx.is_mlx(config):
        return mlx.read_mlx_config(config)
    path = folder / PROCESSOR
    if path.exists() or config.get("model_type") != "voxtral_realtime":
        processor = read_object(path, PARAMS) if path.exists() else {}
        return VoxtralConfig.from_hf(config, processor)
    raise CheckpointError(
        f"{path}: missing; it is the same for every copy of the model: download into this folder "
        f"{PROCESSOR_URL}"
    )


def _find_gguf(source: Path) -> list[Path]:
    """Return the files that make up a GGUF, as `shards.find`; name a file of a foreign format."""
    try:
        return find(source)
    except CheckpointError:
        foreign.refuse_files(str(source.parent), [source.name] if source.is_file() else [])
        raise


def _has_safetensors(source: Path) -> bool:
    """Return whether a folder has hyperparameters and weights of a layout that is not a GGUF."""
    has_config = (source / _PARAMS).exists() or (source / _CONFIG).exists()
    return has_config and any(
        path.name.startswith(_WEIGHTS) for path in source.glob("*.safetensors")
    )


def _is_mistral(folder: Path) -> bool:
    """Return whether a folder is read in Mistral's layout; it may have another one beside it."""
    has_others = (folder / _CONFIG).exists() and not (folder / _CONSOLIDATED).exists()
    return (folder / _PARAMS).exists() and not has_others


def _open_weights(folder: Path) -> tuple[dict[str, Tensor], schemes.NamingScheme]:
    """Map the weight files of a folder, and join the parts of quantised weights.

    Return the tensors by stored name, and the scheme of these names.

    Raises:
        CheckpointError: a file is missing or damaged, or its weights are packed in another way.
    """
    if _is_mistral(folder):
        place, config = folder / _CONSOLIDATED, folder / _PARAMS
        found, scheme = open_safetensors(place), schemes.MISTRAL
        quantised = read_object(config, PARAMS).get(_QUANTISED)
    else:
        place, config = folder, folder / _CONFIG
        found, values = open_hf_files(folder), read_object(config, PARAMS)
        live = any(name.startswith("model.") for name in found)
        scheme = schemes.HF_LIVE if live else schemes.HF
        quantised = values.get(f"{_QUANTISED}_config")
        if mlx.is_mlx(values):
            scheme, quantised = mlx.scheme_of(found), None
            found = mlx.join_mlx(str(folder), found, values)

    if quantised is not None:
        check_config(str(config), quantised)
    foreign.refuse_packings(str(place), found)
    found = join_compressed(str(place), found)
    foreign.require_floats(str(place), found)
    return found, scheme


def _open_gguf(source: Path, shards: list[Path], tokenizer: Path | None) -> Checkpoint:
    model = read_gguf_model(source, shards)
    tensors = _check_tensors(source, model.tensors, model.config, model.scheme)
    content, used = model.tokenizer, []
    if tokenizer or content is None:
        tokenizer = tokenizer or shards[0].parent / "tekken.json"
        if not tokenizer.is_file():
            raise CheckpointError(
                f"{source}: this GGUF says too little about its tokenizer, and there is no "
                f"{tokenizer}; pass Mistral's: --tokenizer tekken.json"
            )
        content, used = read_bytes(tokenizer, TOKENIZER), [tokenizer]
    files = versions((*shards, *used))
    return Checkpoint(
        source, model.scheme.name, model.config, tensors, content, RELEASED_CARD, files
    )


def _require_files(source: Path) -> None:
    """Check that a checkpoint can be looked into, and that what would be read are files.

    Raises:
        CheckpointError: the folder cannot be read, or a name is that of a pipe or a device.
    """
    try:
        paths = sorted(source.iterdir()) if source.is_dir() else [source]
        for path in paths:
            is_read = path == source or path.suffix.lower() in (*_SUFFIXES, ".gguf")
            if is_read and path.exists() and not (path.is_file() or path.is_dir()):
                raise CheckpointError(f"{path}: expected a file, got a pipe or a device")
    except OSError as error:
        raise CheckpointError(
            f"{source}: cannot be looked into ({error.strerror or error}); its permissions must "
            "let this user read it"
        ) from error


def _refuse_pointers(source: Path) -> None:
    """Refuse a checkpoint that was cloned without its large files.

    Raises:
        CheckpointError: a file is a pointer of Git LFS.
    """
    files = sorted(source.glob("*")) if source.is_dir() else [source]
    if pointer := next(filter(is_lfs_pointer, files), None):
        raise CheckpointError(
            f"{pointer}: expected the file itself, got a Git LFS pointer to it; run in its "
            "folder: git lfs pull"
        )


def _refuse_two_models(source: Path) -> None:
    """Refuse a folder that has a GGUF beside safetensors, as they may be of different models.

    Raises:
        CheckpointError: the folder has both.
    """
    files = sorted(path.name for path in source.glob("*"))
    ggufs = [name for name in files if is_gguf(name)]
    others = [name for name in files if name.endswith(".safetensors")]
    if ggufs and others:
        raise CheckpointError(
            f"{source}: expected one model, found {others[0]} and {ggufs[0]}; name the GGUF to "
            f"export it ({source / ggufs[0]}), or move it elsewhere to export the other"
        )


def versions(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Return size and modification time, in nanoseconds, of those files that exist."""
    found = {path: path.stat() for path in paths if path.exists()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def _check_tensors(
    source: Path, found: dict[str, Tensor], config: VoxtralConfig, scheme: schemes.NamingScheme
) -> dict[str, Tensor]:
    """Return the tensors that were found by our names, checked against the configuration.

    Raises:
        CheckpointError: some tensors are missing, unexpected or misshapen; the message lists them.
    """
    # Rename the tensors of the configuration
    problems, tensors, expected = [], {}, names.tensor_shapes(config)
    for name, shape in expected.items():
        stored_name = scheme.rename(name)
        tensor = found.pop(stored_name, None)
        if tensor is None:
            problems.append(f"missing {stored_name} {list(shape)}")
        elif tensor.shape != shape:
            problems.append(
                f"misshapen {stored_name}: expected {list(shape)}, got {list(tensor.shape)}"
            )
        else:
            head_dim = names.rotary_head_dim(name, config) if scheme.interleaved else None
            order = names.half_split_rows(shape[0], head_dim) if head_dim else None
            tensors[name] = tensor.arranged(name, order)

    # Sort the others: copies of the embedding, tensors of the format, unknown tensors
    for name in scheme.tied_copies & found.keys():
        copy, table = found.pop(name), tensors.get(names.EMBEDDING)
        if table is None:
            continue  # its absence is a problem already
        if copy.shape != table.shape or not _same(copy, table):
            problems.append(f"{name} differs from the embedding, but this architecture ties them")
    problems += [
        f"unexpected {name} {list(tensor.shape)}"
        for name, tensor in found.items()
        if name not in scheme.extras
    ]

    # Look for gaps in files that a download has filled in parts
    problems += [
        f"gap {scheme.rename(name)} {list(tensor.shape)}: expected weights, got only zeros, as "
        "where a download was interrupted"
        for name, tensor in tensors.items()
        if _is_gap(name, tensor)
    ]

    if problems:
        shown = "\n  ".join(
            problems[:20] + [f"… and {len(problems) - 20} more"] * (len(problems) > 20)
        )
        raise CheckpointError(
            f"{source}: expected the {len(expected)} tensors of this configuration in the "
            f"{scheme.name} layout, got {len(problems)} differences:\n  {shown}"
        )
    return tensors


def _is_gap(name: str, tensor: Tensor) -> bool:
    """Return whether a norm, or the first, the middle and the last row of a matrix, are zeros.

    Other vectors are biases, which may be.
    """
    is_norm = name.endswith("norm.weight")
    if len(tensor.shape) != 2 and not is_norm:
        return False
    rows = tensor.shape[0]
    places = range(rows) if is_norm else (0, rows // 2, rows - 1)
    found = not any(tensor.rows(at, at + 1).any() for at in places)
    tensor.release()
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two matrices of one shape have the same values, whatever their types."""
    for start in range(0, one.shape[0], _COMPARED_ROWS):
        stop = min(start + _COMPARED_ROWS, one.shape[0])
        if not np.array_equal(one.rows(start, stop), other.rows(start, stop)):
            return False
        one.release(start, stop)
        other.release(start, stop)
    return True


def read_card(folder: Path) -> Card:
    """Read a folder's `card.json`, or return the released model's card where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / "card.json"
    if not path.exists():
        return RELEASED_CARD
    return decode(
        Card,
        read_bytes(path, PARAMS),
        lambda reason: CheckpointError(
            f"{path}: expected the keys scope, trained_delays_ms and license ({reason})"
        ),
    )
