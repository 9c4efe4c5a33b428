"""Checkpoints that stand in a repository of the hub: what is needed of them, and bringing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import hub
from ..errors import CheckpointError
from ..manifest import FILE_NAME
from .checkpoint import shard_names

DEFAULT_SOURCE = "mistralai/Voxtral-Mini-4B-Realtime-2602"


@dataclass(frozen=True, slots=True)
class RemoteCheckpoint:
    """A checkpoint in one layout, whose small files have come."""

    snapshot: hub.Snapshot
    folder: Path  # where its files are kept
    weights: Mapping[str, hub.RemoteFile]

    @property
    def output(self) -> Path:
        """The artifact folder unless told otherwise."""
        return Path(f"{self.snapshot.repository.name}-onnx")

    @property
    def num_bytes(self) -> int:
        """Bytes that `fetch` would download."""
        return hub.remaining(self.weights, self.folder)

    def require_room(self, output: Path, size: int) -> None:
        """Compare what the download and an artifact of `size` bytes need with what there is.

        Raises:
            StorageError: a disk is too small.
        """
        new = 0 if output.exists() else size  # of a folder that exists, the export knows what it can take over
        hub.require_room({self.folder: self.num_bytes, output: new})

    def fetch(self, on_progress: Callable[[hub.Progress], None] = lambda progress: None) -> Path:
        """Download what is missing; returns the checkpoint's folder.

        Raises:
            StorageError: as `Snapshot.download`.
        """
        self.snapshot.download(self.weights, self.folder, on_progress)
        self.snapshot.remember()
        return self.folder


def find_remote(
    source: str | Path,
    revision: str | None = None,
    *,
    offline: bool = False,
    on_progress: Callable[[hub.Progress], None] = lambda progress: None,
) -> RemoteCheckpoint | None:
    """The checkpoint that ORG/NAME or ORG/NAME@REVISION names; None for a path, and for `tiny`.

    Where a repository holds both layouts, Mistral's is taken. The hyperparameters, the tokenizer and the index of the
    weights are downloaded at once: 15 MB of the released model's 8.9 GB.

    Raises:
        CheckpointError: the repository holds no checkpoint.
        StorageError, UsageError: as `hub.look_up` and `hub.find_repository`.
    """
    repository = hub.find_repository(source, revision)
    if repository is None:
        return None
    snapshot = hub.look_up(repository, offline=offline)
    files = snapshot.files
    if {"params.json", "consolidated.safetensors"} <= files.keys():
        small, weights = ["params.json"], ["consolidated.safetensors"]
    elif FILE_NAME in files:
        raise CheckpointError(
            f"{repository}: an exported artifact, not a checkpoint; run: voxtral-onnx transcribe --model {repository}"
        )
    elif "config.json" in files:
        small = ["config.json", "processor_config.json", *files.keys() & {"model.safetensors.index.json"}]
        weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    else:
        raise CheckpointError(
            f"{repository}: expected params.json and consolidated.safetensors (Mistral's layout) or config.json "
            "(Hugging Face's), found neither"
        )
    small += ["tekken.json", *files.keys() & {"card.json"}]
    _require(repository, small, files)
    folder = snapshot.folder([*small, *weights])
    snapshot.download({name: files[name] for name in small}, folder, on_progress)
    if "config.json" in small:
        weights = shard_names(folder)
        _require(repository, weights, files)
    folder = snapshot.folder_of_others([*small, *weights]) or folder
    return RemoteCheckpoint(snapshot, folder, {name: files[name] for name in weights})


def _require(repository: hub.Repository, names: list[str], files: Mapping[str, hub.RemoteFile]) -> None:
    if lost := sorted(set(names) - files.keys()):
        raise CheckpointError(f"{repository}: its checkpoint lacks {', '.join(lost)}; choose another --revision")
