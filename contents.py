"""The comparison of an artifact's files with their recorded hashes before they are used.

Small files are hashed at every load. Gigabytes of weights are hashed once: `hashes.json` in the
user's cache folder maps a file's metadata (`Stamp`), which changes whenever the file is written, to
the hash that it had. This finds corrupted storage, incomplete copies and accidental overwrites. It
does not protect against attackers, who could replace the recorded hashes as well as the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta

from .decode import Sha256, decode, read_within
from .errors import ArtifactError
from .files import PIECE_SIZE, FileSpec, atomic_write, hash_file, user_folder
from .limits import STATE
from .threads import num_cores

MOST_REMEMBERED = 256  # files in hashes.json, the latest ones; together 40 kB
ADVICE = "; copy the artifact again, download or export it"  # ends messages on damaged files
_CHUNK = 1 << 20  # bytes that a thread reads at a time


class Stamp(NamedTuple):
    """The metadata by which the system tells a file from a rewritten or replaced one."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Return the stamp of a file, or None if it cannot be looked up."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_written(self, now: Stamp | None) -> bool:
        """Return whether the file itself was modified since; False if another one replaced it."""
        return (
            now is not None
            and now[:2] == self[:2]
            and (now.size, now.mtime_ns) != (self.size, self.mtime_ns)
        )


def differences(files: Mapping[Path, FileSpec], threads: int | None = None) -> dict[Path, str]:
    """Hash files and return the paths that differ from their record, with the reason in words.

    Args:
        files: existing files, and their recorded hashes.
        threads: threads that hash pieces of 16 MiB; by default one for each core.
    """
    with ThreadPoolExecutor(threads or num_cores()) as pool:
        return _found(files, _submit(files, pool))


def hash_files(paths: Collection[Path], threads: int) -> dict[Path, FileSpec]:
    """Hash files that were just written, and remember the hashes as `verified` does."""
    stamps = {path: Stamp.of(path) for path in paths}
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(paths, pool.map(hash_file, paths), strict=True))
    unchanged = {
        _key(stamp): found[path].sha256
        for path, stamp in stamps.items()
        if stamp is not None and Stamp.of(path) == stamp
    }
    _remember(unchanged, None)
    return found


def check_contents(
    files: Mapping[Path, FileSpec],
    weights: Collection[Path] = (),
    *,
    threads: int | None = None,
    notes: list[str] | None = None,
) -> None:
    """Compare files with their recorded hashes, with the arguments and errors of `verified`."""
    with verified(files, weights, threads=threads, notes=notes):
        pass


@contextmanager
def verified(
    files: Mapping[Path, FileSpec],
    weights: Collection[Path] = (),
    *,
    threads: int | None = None,
    notes: list[str] | None = None,
) -> Iterator[None]:
    """Compare files with their recorded hashes while the context's body loads them.

    Files other than weights are compared before the body runs. Weights whose hash is not remembered
    are hashed while it runs, so nothing may be computed with them before the context has ended.

    Args:
        files: existing files, and their recorded hashes.
        weights: those of the files whose hashes are remembered between loads.
        threads: threads that hash; by default one for each core.
        notes: a list that gets a sentence if hashes cannot be remembered.

    Raises:
        ArtifactError: files differ or were modified in the meantime; the message names each.
    """
    # Hash small files, and find the weights whose hash is not remembered
    stamps = {path: Stamp.of(path) for path in files}
    _require_none(differences({path: files[path] for path in files.keys() - {*weights}}, threads))
    known = _remembered()
    new = {
        path: files[path]
        for path in weights
        if (stamp := stamps[path]) is None or known.get(_key(stamp)) != files[path].sha256
    }

    # Hash those while the body loads them
    pool = ThreadPoolExecutor(threads or num_cores())
    try:
        parts = _submit(new, pool)
        yield
        _require_none(_found(new, parts))
    finally:
        pool.shutdown(cancel_futures=True)

    # Refuse files that changed meanwhile; remember the hashes of the others
    _require_none(
        {
            path: "written or replaced while it was loaded"
            for path, stamp in stamps.items()
            if Stamp.of(path) != stamp
        }
    )
    _remember({_key(stamp): files[path].sha256 for path in new if (stamp := stamps[path])}, notes)


class MappedFiles:
    """Memory-mapped weight files of open sessions, watched because writes to them change results.

    Exports and downloads replace or delete files, which leaves the mapped contents intact. A file
    that is truncated while a call reads it ends the process with SIGBUS, which cannot be caught.
    """

    def __init__(self, files: Mapping[Path, FileSpec]):
        """Record the files' stamps, which must happen before the files are verified."""
        self._files, self._stamps = files, {path: Stamp.of(path) for path in files}

    def require_unchanged(self) -> None:
        """Check that the files' contents have not changed.

        A file whose modification time or size is new is hashed again.

        Raises:
            ArtifactError: a file's content differs from its recorded hash.
        """
        for path, before in self._stamps.items():
            now = Stamp.of(path)
            if before is None or not before.is_written(now):
                continue
            if hash_file(path).sha256 != self._files[path].sha256:
                raise ArtifactError(
                    f"{path}: changed while it was in use, so that nothing decoded from now on "
                    "could be trusted; start again, and replace files instead of writing into "
                    "them (exports: into another folder)"
                )
            self._stamps[path] = now


def _submit(
    files: Mapping[Path, FileSpec], pool: ThreadPoolExecutor
) -> dict[Path, list[Future[str]]]:
    return {
        path: [
            pool.submit(_hash_part, path, part, is_last=part == max(1, len(file.pieces)) - 1)
            for part in range(max(1, len(file.pieces)))
        ]
        for path, file in files.items()
    }


def _hash_part(path: Path, part: int, *, is_last: bool) -> str:
    """Return the sha256 of a piece of 16 MiB; the last piece extends to the end of the file."""
    found, left = hashlib.sha256(), PIECE_SIZE
    with path.open("rb", buffering=0) as file:
        file.seek(part * PIECE_SIZE)
        while chunk := file.read(_CHUNK if is_last else min(_CHUNK, left)):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest()


def _found(
    files: Mapping[Path, FileSpec], parts: Mapping[Path, list[Future[str]]]
) -> dict[Path, str]:
    wrong = {}
    for path, file in files.items():
        try:
            found = tuple(part.result() for part in parts[path])
        except OSError as error:
            wrong[path] = f"cannot be read ({error.strerror or error})"
            continue
        if found != (file.pieces or (file.sha256,)):
            wrong[path] = f"expected sha256 {file.sha256[:16]}…, got other bytes"
    return wrong


def _require_none(wrong: Mapping[Path, str]) -> None:
    if wrong:
        raise ArtifactError(
            "; ".join(f"{path}: {reason}" for path, reason in wrong.items()) + ADVICE
        )


@dataclass(frozen=True, slots=True)
class _Memory:
    """The content of `hashes.json`: the sha256 of files, by their stamp when they were hashed."""

    files: Annotated[
        Mapping[Annotated[str, Meta(max_length=200)], Sha256], Meta(max_length=MOST_REMEMBERED)
    ]


def _memory_file() -> Path:
    return user_folder("cache") / "hashes.json"


def _key(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))


def _remembered() -> dict[str, str]:
    """Return the remembered sha256 by stamp; empty if `hashes.json` is missing or damaged."""
    try:
        content = read_within(_memory_file(), STATE, ValueError)
        return dict(decode(_Memory, content, ValueError).files)
    except (OSError, ValueError):
        return {}


def _remember(hashes: Mapping[str, str], notes: list[str] | None) -> None:
    """Add hashes to `hashes.json`, which other processes may have written in the meantime."""
    if not hashes:
        return
    known = {key: value for key, value in _remembered().items() if key not in hashes}
    kept = dict([*known.items(), *hashes.items()][-MOST_REMEMBERED:])
    try:
        path = _memory_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps({"files": kept}).encode())
    except OSError as error:
        note = f"weights are hashed at every load, because their hashes cannot be kept: {error}"
        if notes is not None and note not in notes:
            notes.append(note)
