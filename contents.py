"""Contents of files, compared with recorded hashes before they are used.

Small files are hashed every time. Weights, gigabytes of them, are hashed once: that they were right
is remembered in the user's cache folder by what the system says of them (`Stamp`), which is another
once they are written. So rotten bits, copies that were cut short and honest overwrites are found.
It is no seal: who can write a file can write what records its hash.
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

MOST_REMEMBERED = 256  # files, those hashed last; they take 40 kB
_CHUNK = 1 << 20  # bytes that a thread holds


class Stamp(NamedTuple):
    """What the system says of a file; one that was written or replaced has another."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Return the stamp of a file, None where there is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_written(self, now: Stamp | None) -> bool:
        """Tell whether this very file was written into; another in its place was not."""
        return (
            now is not None
            and now[:2] == self[:2]
            and (now.size, now.mtime_ns) != (self.size, self.mtime_ns)
        )


def differences(files: Mapping[Path, FileSpec], threads: int | None = None) -> dict[Path, str]:
    """Hash files and return what is wrong with those that are not what was recorded.

    Pieces of 16 MiB are hashed by several threads, by default one a core.
    """
    with ThreadPoolExecutor(threads or num_cores()) as pool:
        return _found(files, _submit(files, pool))


def check_contents(
    files: Mapping[Path, FileSpec],
    weights: Collection[Path] = (),
    *,
    threads: int | None = None,
    notes: list[str] | None = None,
) -> None:
    """Compare files with what was recorded; as `verified`."""
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
    """Compare files with what was recorded while they are loaded in the body.

    What is no weights is compared before. Weights are hashed meanwhile where they are not
    remembered; nothing may be computed with them before the body has ended.

    Args:
        files: existing ones, and what they must hold.
        weights: those of them that are remembered.
        threads: that hash; by default one a core.
        notes: told where nothing can be remembered.

    Raises:
        ArtifactError: naming every file that holds something else, or was written in the meantime.
    """
    stamps = {path: Stamp.of(path) for path in files}
    _require_none(differences({path: files[path] for path in files.keys() - {*weights}}, threads))
    known = _remembered()
    new = {
        path: files[path]
        for path in weights
        if (stamp := stamps[path]) is None or known.get(_key(stamp)) != files[path].sha256
    }
    pool = ThreadPoolExecutor(threads or num_cores())
    try:
        parts = _submit(new, pool)
        yield
        _require_none(_found(new, parts))
    finally:
        pool.shutdown(cancel_futures=True)
    _require_none(
        {
            path: "written or replaced while it was loaded"
            for path, stamp in stamps.items()
            if Stamp.of(path) != stamp
        }
    )
    _remember({_key(stamp): files[path].sha256 for path in new if (stamp := stamps[path])}, notes)


class MappedFiles:
    """Weight files that sessions have mapped: what is written into them changes what is computed.

    A file that is replaced or deleted, as exports and downloads do it, stays what it was for those
    that have it open. One that is cut short while a call reads it ends the process: the system
    leaves no other way.
    """

    def __init__(self, files: Mapping[Path, FileSpec]):
        """To be made before the files are verified."""
        self._files, self._stamps = files, {path: Stamp.of(path) for path in files}

    def require_unchanged(self) -> None:
        """See that nothing was written into the files.

        One with a new time is read and its hash compared.

        Raises:
            ArtifactError: a file is not what was recorded any more.
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
    """Hash 16 MiB of a file, or the last ones and all that follows."""
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
            "; ".join(f"{path}: {reason}" for path, reason in wrong.items())
            + "; copy the artifact again, download or export it"
        )


@dataclass(frozen=True, slots=True)
class _Memory:
    """`hashes.json`: the sha256 of files, by what the system said of them when they were hashed."""

    files: Annotated[
        Mapping[Annotated[str, Meta(max_length=200)], Sha256], Meta(max_length=MOST_REMEMBERED)
    ]


def _memory_file() -> Path:
    return user_folder("cache") / "hashes.json"


def _key(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))


def _remembered() -> dict[str, str]:
    """Read what is remembered; damaged, it is nothing."""
    try:
        content = read_within(_memory_file(), STATE, ValueError)
        return dict(decode(_Memory, content, ValueError).files)
    except (OSError, ValueError):
        return {}


def _remember(hashes: Mapping[str, str], notes: list[str] | None) -> None:
    """Add hashes to what other processes have remembered in the meantime."""
    if not hashes:
        return
    known = {key: value for key, value in _remembered().items() if key not in hashes}
    kept = dict([*known.items(), *hashes.items()][-MOST_REMEMBERED:])
    try:
        path = _memory_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps({"files": kept}).encode())
    except OSError as error:
        note = f"weights are hashed at every load, because that they are right is not kept: {error}"
        if notes is not None and note not in notes:
            notes.append(note)
