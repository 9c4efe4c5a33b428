"""Files of a running export, which let it be resumed if it is killed at any instant.

    export.lock         locked by the running export; the system unlocks it when the process ends,
                        however it ends
    unfinished.json     the export's checkpoint, the files it may have written, the graphs that are
                        finished
    *.partial           a file that is being written
    voxtral_onnx.json   the manifest, written last; an old one stays until a file that it names is
                        replaced

Every file is flushed to the disk before `unfinished.json` or the manifest names it as complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from .. import files
from ..contents import ADVICE, check_contents
from ..decode import Count, Name, RelativeName, Sha256, decode, read_within
from ..errors import ArtifactError, StorageError
from ..files import FileSpec, atomic_write, fsync_dir
from ..limits import UNFINISHED as MOST_BYTES
from ..manifest import FILE_NAME, TOKENIZER, GraphSpec, Manifest, RecipeSpec
from .graph.families import ROOT_NAMES

UNFINISHED = "unfinished.json"
LOCK = "export.lock"
FORMER = "delay_network.gguf"  # a file of earlier versions that nothing reads any more


@dataclass(frozen=True, slots=True)
class FinishedGraph:
    """A graph whose files are complete, and the recipe it was quantised by."""

    graph: GraphSpec
    recipe: RecipeSpec
    files: Mapping[RelativeName, FileSpec]

    def __post_init__(self):
        if self.files.keys() != {*self.graph.files}:
            raise ValueError(f"{self.graph.path}: expected hashes of its files alone")

    def flaw(self, folder: Path, threads: int) -> str | None:
        """Return which of the graph's files are not as they were written; None if all are.

        Of weights that were hashed before, only size and times are compared.
        """
        for name, file in self.files.items():
            size = files.size_of(folder / name)
            if size is None:
                return f"{name}, which is missing"
            if size != file.size:
                return f"{name}, which has {size:,} bytes and not {file.size:,}"
        try:
            check_contents(
                {folder / name: file for name, file in self.files.items()},
                {folder / name for name in self.graph.data},
                threads=threads,
            )
        except ArtifactError as error:
            return f"damage ({str(error).removesuffix(ADVICE)})"
        return None


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that every graph's bytes depend on, besides its recipe and the shard size."""

    generator: Name
    packages: Mapping[Name, Name]  # versions of the packages that make graphs
    fingerprint: Sha256
    # Size, and modification time in nanoseconds, of each of the checkpoint's files
    checkpoint: Mapping[Name, tuple[Count, int]]


@dataclass(frozen=True, slots=True)
class Record:
    """The content of `unfinished.json`."""

    fingerprint: Sha256 | None  # of the checkpoint; None where the file does not parse
    facts: Facts | None  # finished graphs are reused only under equal facts
    # Files that may be in the folder although no manifest names them
    files: Annotated[tuple[RelativeName, ...], Meta(max_length=10_000)]
    finished: Mapping[RelativeName, FinishedGraph]  # by the graph's path

    def write(self, folder: Path) -> None:
        """Write `unfinished.json` atomically.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        atomic_write(folder / UNFINISHED, json.dumps(asdict(self), ensure_ascii=False).encode())

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read the record of an earlier export, perhaps by another version of this package.

        A record that does not parse is returned empty.
        """
        try:
            content = read_within(path, MOST_BYTES, ValueError)
        except (OSError, ValueError):
            return cls(None, None, (), {})
        for kind in (cls, _Beginning):
            try:
                found = decode(kind, content, ValueError)
            except ValueError:
                continue
            return found if isinstance(found, Record) else cls(found.fingerprint, None, (), {})
        return cls(None, None, (), {})


class _Beginning(Struct):
    """The part of `unfinished.json` that every version writes."""

    fingerprint: Sha256


@dataclass(frozen=True, slots=True)
class State:
    """The manifest and the record that earlier exports left in a folder."""

    manifest: Manifest | None
    record: Record | None


def default_folder(source: str | Path) -> Path:
    """Return an artifact's default folder, named after a folder, a GGUF or a pattern of shards."""
    source = Path(source)
    stem = re.sub(r"\.gguf$", "", source.name, flags=re.IGNORECASE)
    name = re.sub(r"[*?[].*", "", stem).rstrip("-._")
    return Path(f"{name or source.parent.name}-onnx")


def read_state(folder: Path, fingerprint: str) -> State:
    """Read the state of a folder, which need not exist.

    Raises:
        ArtifactError: the folder has other files, or an artifact of another checkpoint.
        StorageError: the path cannot be a folder.
    """
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise _cannot_be_made(folder, error) from error
    try:
        manifest = Manifest.read(folder) if FILE_NAME in names else None
    except ArtifactError as error:
        raise ArtifactError(
            f"{str(error).removesuffix('; export again')}; delete the folder, or choose another "
            "with --output"
        ) from error
    record = Record.read(folder / UNFINISHED) if UNFINISHED in names else None
    if found := manifest or record:
        if found.fingerprint != fingerprint:
            raise ArtifactError(
                f"{folder}: holds an artifact of another checkpoint; choose another folder with "
                "--output"
            )
    elif {name for name in names if name != LOCK and not files.is_partial(name)}:
        # More files than an export leaves that was killed at its first step
        raise ArtifactError(
            f"{folder}: exists and is no artifact; choose another folder with --output"
        )
    return State(manifest, record)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make an artifact folder and keep other exports out of it.

    Raises:
        StorageError: another export has locked the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(folder, error) from error
    busy = (
        f"{folder}: another export is writing here; wait for it or choose another folder with "
        "--output"
    )
    with files.lock(folder / LOCK, busy=busy):
        yield


def start(folder: Path, state: State, kept: Manifest | None, record: Record) -> None:
    """Record what will be written, and remove from the manifest what that replaces.

    Files that neither manifest nor record names any more are removed.

    Args:
        folder: locked by this export.
        state: as `read_state` returned it.
        kept: the manifest of the precisions that stay as they are, None where none does.
        record: the starting export's; its finished graphs are those reused.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    stale = stale_files(state, kept, record.finished)
    # First, because a folder with neither a record nor a manifest would refuse the next export
    replace(record, files=tuple(sorted({*record.files, *stale}))).write(folder)
    try:
        (folder / "onnx").mkdir(exist_ok=True)
        if kept and kept != state.manifest:
            kept.write(folder)
        elif not kept:
            (folder / FILE_NAME).unlink(missing_ok=True)
            fsync_dir(folder)
        _remove(folder, stale - ({*record.files} & ROOT_NAMES))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise _cannot_be_made(folder, error) from error


def stale_files(
    state: State, kept: Manifest | None, finished: Mapping[str, FinishedGraph]
) -> set[str]:
    """Return the files of earlier exports that no kept precision or finished graph has."""
    earlier = {
        *(state.record.files if state.record else ()),
        *(state.manifest.files if state.manifest else ()),
    }
    return earlier - {
        *(kept.files if kept else ()),
        *(file for graph in finished.values() for file in graph.files),
    }


def write_shared(path: Path, content: bytes) -> None:
    """Write a file that the present manifest may name, unless it already has these bytes."""
    if not path.is_file() or path.read_bytes() != content:
        atomic_write(path, content)


def commit(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which finishes the export, and remove the record."""
    manifest.write(folder)
    (folder / UNFINISHED).unlink(missing_ok=True)


def _remove(folder: Path, names: set[str]) -> None:
    """Remove some files and all partial ones, but only at paths where exports write files.

    A damaged record can thus not have other files removed.
    """
    for name in names:
        if re.fullmatch(r"onnx/[^/\\]+", name) or name in (*ROOT_NAMES, FORMER):
            (folder / name).unlink(missing_ok=True)
    for path in (*(folder / "onnx").glob("*.partial"), *folder.glob(".*.partial")):
        if files.is_partial(path.name) or path.parent != folder:
            path.unlink()
    for name in (FILE_NAME, TOKENIZER, FORMER, *ROOT_NAMES):  # names in earlier versions
        (folder / f"{name}.partial").unlink(missing_ok=True)


def _cannot_be_made(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: cannot be made ({error.strerror or error}); choose another folder with --output"
    )
