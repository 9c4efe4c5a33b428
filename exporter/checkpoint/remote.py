"""Find checkpoints in repositories of the hub, choose the files that are needed, download them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ... import hub, limits
from ...addresses import Address, read_address
from ...config import RELEASED_NAME
from ...download import RemoteFile
from ...errors import CheckpointError, StorageError, UsageError
from ...files import require_disk
from ...manifest import FILE_NAME, TOKENIZER
from .formats.foreign import refuse_files
from .formats.gguf_model import EMBEDDED
from .formats.mlx import is_mlx
from .formats.safetensors import read_object, shard_names
from .formats.shards import (
    SPLIT_IN_TWO,
    begins_shards,
    first_shard,
    is_gguf,
    is_mmproj,
    order_shards,
)
from .open import PROCESSOR, PROCESSOR_URL

DEFAULT_SOURCE = RELEASED_NAME

_BUDGETS = {  # the most bytes of the small files, as their readers have it
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
    """A checkpoint of one layout in a repository, whose small files have been downloaded."""

    snapshot: hub.Snapshot
    folder: Path  # local, for its files
    weights: Mapping[str, RemoteFile]
    gguf: str | None = None  # the file, or the first of its shards, where the weights are a GGUF
    lender: hub.Repository | None = None  # of the tokenizer, where the repository has none

    @property
    def source(self) -> Path:
        """Return the path of the checkpoint's local folder, or of its GGUF there."""
        return self.folder / (self.gguf or "")

    @property
    def output(self) -> Path:
        """Return the artifact folder for an export that names none."""
        return Path(f"{self.snapshot.repository.name}-onnx")

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes that `fetch` would download."""
        return hub.remaining(self.weights, self.folder)

    def require_room(self, output: Path, size: int | None) -> None:
        """Check that the disks have room for the download and an artifact.

        Args:
            output: the artifact folder.
            size: bytes of the artifact, None where they are not known.

        Raises:
            StorageError: a disk is too small.
        """
        # An existing folder may have files that the export reuses, so it checks for room itself
        new = 0 if output.exists() else size or 0
        require_disk({self.folder: self.num_bytes, output: new})

    def fetch(self, on_progress: Callable[[hub.Progress], None] = lambda progress: None) -> Path:
        """Download the files that are missing and return `source`.

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
    """Find the checkpoint that ORG/NAME[@REVISION] or an address of the hub names.

    The result is None for a path, and for `tiny`.

    Mistral's layout is preferred to Hugging Face's. A GGUF is taken where a repository has neither,
    or where ORG/NAME/FILE or an address names it or the first of its shards. The hyperparameters,
    the tokenizer and the index of the weights are downloaded at once: 15 MB of the released model's
    8.9 GB.

    Args:
        source: the checkpoint that a user named.
        revision: branch, tag or commit, if `source` has none.
        tokenizer: a local `tekken.json`, instead of the repository's.
        offline: use only what was downloaded before.
        on_progress: called for every MiB of a download.

    Raises:
        CheckpointError: the repository has no checkpoint, or several GGUFs.
        StorageError, UsageError: as `hub.look_up` and `hub.find_repository`.
    """
    # Look the repository up
    name, file = _split(source)
    repository = hub.find_repository(name, revision)
    if repository is None:
        return None
    snapshot = hub.look_up(repository, offline=offline)
    files = snapshot.files

    # Choose a layout and its files
    ggufs = [name for name in files if is_gguf(name) or begins_shards(name, files)]
    safetensors = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    if not safetensors and not ggufs:
        refuse_files(str(repository), files)
    card, gguf = files.keys() & {"card.json"}, None
    if file is None and {"params.json", "consolidated.safetensors"} <= files.keys():
        small, weights = ["params.json", *card], ["consolidated.safetensors"]
    elif file is None and FILE_NAME in files:
        raise CheckpointError(
            f"{repository}: an exported artifact, not a checkpoint; run: voxtral-onnx transcribe "
            f"--model {repository}"
        )
    elif file is None and "config.json" in files and (safetensors or not ggufs):
        others = files.keys() & {PROCESSOR, "model.safetensors.index.json"}
        small = ["config.json", *others, *card]
        weights = safetensors
    else:
        gguf = _choose_gguf(repository, ggufs, file)
        small = []
        weights = order_shards(
            gguf, {name: entry.size for name, entry in files.items()}, str(repository)
        )
    beside, is_lent = str(PurePosixPath(gguf or "").parent / TOKENIZER), False
    if tokenizer is None:
        if gguf is None or beside in files:
            small.append(beside)
        else:
            is_lent = not _may_hold_tokenizer(snapshot, gguf, weights)

    # Download the small ones, an index of weights among them
    _require(repository, small, files)
    folder = snapshot.folder([*small, *weights])
    budgets = {name: _BUDGETS[PurePosixPath(name).name] for name in small}
    snapshot.download(snapshot.within(budgets, CheckpointError), folder, on_progress)
    if "config.json" in small:
        config = read_object(folder / "config.json", limits.PARAMS)
        if PROCESSOR not in files and not is_mlx(config):
            raise CheckpointError(
                f"{repository}: its checkpoint lacks {PROCESSOR}; download the repository to a "
                f"folder, and into that folder {PROCESSOR_URL}"
            )
        weights = shard_names(folder, files)
        _require(repository, weights, files)

    # Add the released tokenizer to a GGUF, or use a folder that another program has kept
    lender = None
    if is_lent:
        lender = _lend_tokenizer(repository, folder / beside, offline, on_progress)
    elif not (gguf and (folder / beside).is_file()):
        folder = snapshot.folder_of_others([*small, *weights]) or folder
    chosen = {name: files[name] for name in weights}
    return RemoteCheckpoint(snapshot, folder, chosen, gguf, lender)


def _lend_tokenizer(
    borrower: hub.Repository,
    path: Path,
    offline: bool,
    on_progress: Callable[[hub.Progress], None],
) -> hub.Repository:
    """Download the released model's tokenizer to a path beside a GGUF, unless it is there.

    Raises:
        CheckpointError: it cannot be had.
    """
    lender = hub.find_repository(RELEASED_NAME)
    assert lender is not None
    if path.is_file():
        return lender
    try:
        snapshot = hub.look_up(lender, offline=offline)
        file = snapshot.within({TOKENIZER: limits.TOKENIZER}, CheckpointError)
        snapshot.download(file, path.parent, on_progress)
    except (StorageError, KeyError) as error:
        raise CheckpointError(
            f"{borrower}: its checkpoint lacks {TOKENIZER}, and that of {lender} cannot be had "
            f"({error}); name one with --tokenizer FILE"
        ) from error
    return lender


def _split(source: str | Path) -> tuple[str | Path | Address, str | None]:
    """Split the name or address of a GGUF in a repository into the repository's and the file's.

    Return a source that names no file of a repository as it is, with None.

    Raises:
        UsageError: as `read_address`; or the address is that of another file.
    """
    if address := read_address(source):
        file = address.file
        if file is not None and not (is_gguf(file) or first_shard(file)):
            raise UsageError(
                f"{source}: expected a repository or a GGUF in one, got another file; name "
                f"{address}, of which the needed files are taken"
            )
        return Address(address.repo_id, address.revision), file
    match = _FILE.fullmatch(str(source))
    if match is None or isinstance(source, Path) or Path(source).exists():
        return source, None
    name, file, revision = match.groups(default="")
    return (name + revision, file) if is_gguf(file) or first_shard(file) else (source, None)


def _choose_gguf(repository: hub.Repository, ggufs: list[str], file: str | None) -> str:
    """Return the repository's GGUF, or the one of several that was named.

    Raises:
        CheckpointError: the repository has none, not the named one, or several and none is named.
    """
    if is_mmproj(file) if file else any(map(is_mmproj, ggufs)):
        raise CheckpointError(f"{repository}: {SPLIT_IN_TWO}")
    if file in ggufs:
        return file
    held = ", ".join(ggufs)
    if file is not None:
        raise CheckpointError(
            f"{repository}: {file}: not a GGUF of this repository; found {held or 'none'}"
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


def _may_hold_tokenizer(snapshot: hub.Snapshot, gguf: str, weights: list[str]) -> bool:
    """Return whether a GGUF may hold its tokenizer, by its beginning, which is not kept.

    One that is here already is looked into when it is opened.
    """
    is_here = snapshot.is_offline or (snapshot.folder(weights) / gguf).is_file()
    return is_here or EMBEDDED.encode() in snapshot.head(gguf)


def _require(repository: hub.Repository, names: list[str], files: Mapping[str, RemoteFile]) -> None:
    if lost := sorted(set(names) - files.keys()):
        raise CheckpointError(
            f"{repository}: its checkpoint lacks {', '.join(lost)}; choose another --revision"
        )
