"""Checkpoints that stand in a repository of the hub: what is needed of them, and bringing it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ... import hub, limits
from ...config import RELEASED_NAME
from ...download import RemoteFile
from ...errors import CheckpointError
from ...files import require_disk
from ...manifest import FILE_NAME, TOKENIZER
from .gguf import begins_shards, first_shard, order_shards
from .safetensors import shard_names

DEFAULT_SOURCE = RELEASED_NAME

_BUDGETS = {  # bytes that the small files may announce, as their readers have it
    "params.json": limits.PARAMS,
    "config.json": limits.PARAMS,
    "processor_config.json": limits.PARAMS,
    "card.json": limits.PARAMS,
    "model.safetensors.index.json": limits.INDEX,
    TOKENIZER: limits.TOKENIZER,
}
_FILE = re.compile(r"([^/@]+/[^/@]+)/([^@]+)(@.+)?")  # ORG/NAME/FILE[@REVISION]


@dataclass(frozen=True, slots=True)
class RemoteCheckpoint:
    """A checkpoint in one layout, whose small files have come."""

    snapshot: hub.Snapshot
    folder: Path  # where its files are kept
    weights: Mapping[str, RemoteFile]
    gguf: str | None = None  # the file, or the first of its shards, where the weights are a GGUF

    @property
    def source(self) -> Path:
        """The checkpoint's folder, or its GGUF."""
        return self.folder / (self.gguf or "")

    @property
    def output(self) -> Path:
        """The artifact folder unless told otherwise."""
        return Path(f"{self.snapshot.repository.name}-onnx")

    @property
    def num_bytes(self) -> int:
        """Bytes that `fetch` would download."""
        return hub.remaining(self.weights, self.folder)

    def require_room(self, output: Path, size: int | None) -> None:
        """Check that there is room for the download and an artifact of `size` bytes.

        `size` is None where it is not known.

        Raises:
            StorageError: a disk is too small.
        """
        # Of a folder that exists, the export knows what it can reuse
        new = 0 if output.exists() else size or 0
        require_disk({self.folder: self.num_bytes, output: new})

    def fetch(self, on_progress: Callable[[hub.Progress], None] = lambda progress: None) -> Path:
        """Download what is missing; returns `source`.

        Raises:
            StorageError: as `Snapshot.download`.
        """
        self.snapshot.download(self.weights, self.folder, on_progress)
        self.snapshot.remember()
        return self.source


def find_remote(
    source: str | Path,
    revision: str | None = None,
    *,
    tokenizer: str | Path | None = None,
    offline: bool = False,
    on_progress: Callable[[hub.Progress], None] = lambda progress: None,
) -> RemoteCheckpoint | None:
    """The checkpoint that ORG/NAME or ORG/NAME@REVISION names; None for a path, and for `tiny`.

    Where a repository holds both layouts, Mistral's is taken; a GGUF where it holds neither, or
    where ORG/NAME/FILE names it or the first of its shards. The hyperparameters, the tokenizer and
    the index of the weights are downloaded at once: 15 MB of the released model's 8.9 GB.

    Args:
        source: what a user named.
        revision: branch, tag or commit, if `source` says none.
        tokenizer: a `tekken.json` that is here; the repository's is not needed then.
        offline: ask no hub.
        on_progress: called for every MiB of a download.

    Raises:
        CheckpointError: the repository holds no checkpoint, or several GGUFs.
        StorageError, UsageError: as `hub.look_up` and `hub.find_repository`.
    """
    name, file = _split(source)
    repository = hub.find_repository(name, revision)
    if repository is None:
        return None
    snapshot = hub.look_up(repository, offline=offline)
    files = snapshot.files
    ggufs = [name for name in files if name.endswith(".gguf") or begins_shards(name, files)]
    safetensors = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    card, gguf = files.keys() & {"card.json"}, None
    if file is None and {"params.json", "consolidated.safetensors"} <= files.keys():
        small, weights = ["params.json", *card], ["consolidated.safetensors"]
    elif file is None and FILE_NAME in files:
        raise CheckpointError(
            f"{repository}: an exported artifact, not a checkpoint; run: voxtral-onnx transcribe "
            f"--model {repository}"
        )
    elif file is None and "config.json" in files and (safetensors or not ggufs):
        small = [
            "config.json",
            "processor_config.json",
            *files.keys() & {"model.safetensors.index.json"},
            *card,
        ]
        weights = safetensors
    else:
        gguf = _choose_gguf(repository, ggufs, file)
        small = []
        weights = order_shards(
            gguf, {name: entry.size for name, entry in files.items()}, str(repository)
        )
    if tokenizer is None:
        small.append(str(PurePosixPath(gguf or "").parent / TOKENIZER))
    _require(repository, small, files)
    folder = snapshot.folder([*small, *weights])
    budgets = {name: _BUDGETS[PurePosixPath(name).name] for name in small}
    snapshot.download(snapshot.within(budgets, CheckpointError), folder, on_progress)
    if "config.json" in small:
        weights = shard_names(folder)
        _require(repository, weights, files)
    folder = snapshot.folder_of_others([*small, *weights]) or folder
    return RemoteCheckpoint(snapshot, folder, {name: files[name] for name in weights}, gguf)


def _split(source: str | Path) -> tuple[str | Path, str | None]:
    """ORG/NAME/FILE@REVISION as ORG/NAME@REVISION and FILE.

    What names no file of a repository stays as it is.
    """
    match = _FILE.fullmatch(str(source))
    if match is None or isinstance(source, Path) or Path(source).exists():
        return source, None
    name, file, revision = match.groups(default="")
    return (
        (name + revision, file) if file.endswith(".gguf") or first_shard(file) else (source, None)
    )


def _choose_gguf(repository: hub.Repository, ggufs: list[str], file: str | None) -> str:
    """The one GGUF, or the one that was named.

    Raises:
        CheckpointError: there is none, not this one, or several.
    """
    if file in ggufs:
        return file
    held = ", ".join(ggufs)
    if file is not None:
        raise CheckpointError(
            f"{repository}: {file}: no GGUF that it holds; found {held or 'none'}"
        )
    if not ggufs:
        raise CheckpointError(
            f"{repository}: expected params.json and consolidated.safetensors (Mistral's layout), "
            "config.json (Hugging Face's) or a GGUF, found none of them"
        )
    if len(ggufs) > 1:
        name, at, revision = str(repository).partition("@")
        raise CheckpointError(
            f"{repository}: several GGUFs: {held}; name one of them: "
            f"{name}/{ggufs[0]}{at}{revision}"
        )
    return ggufs[0]


def _require(repository: hub.Repository, names: list[str], files: Mapping[str, RemoteFile]) -> None:
    if lost := sorted(set(names) - files.keys()):
        raise CheckpointError(
            f"{repository}: its checkpoint lacks {', '.join(lost)}; choose another --revision"
        )
