"""Repositories of the Hugging Face hub: what they hold, and downloads that are whole and checked.

    HF_HOME/assets/voxtral-onnx/ORG--NAME/
        main.json         what the hub said of this revision when all that was needed of it had
                          come; for --offline
        5f3c…/            files, in a folder named for their content: a commit that changes none of
                          them downloads none
        5f3c…/*.partial   on its way; a later call goes on with it
        5f3c….lock        there while a process downloads; others wait

`huggingface_hub` knows the server, the token and the proxy. Its own downloads would not do: they
begin anew after a kill, compare no hashes, and its cache consists of links, which onnx and OpenVINO
refuse in models.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from msgspec import Meta, Struct

from . import limits
from .decode import Count, RelativeName, Sha256, decode, is_relative_name, read_within
from .download import (
    BLOCK,
    ConnectionLostError,
    RemoteFile,
    StatusError,
    download,
    fetch,
    unfinished_of,
)
from .errors import StorageError, UsageError
from .escaping import quoted
from .files import atomic_write, is_below, lock, require_disk

REPOSITORY = re.compile(r"([a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(?:@(.+))?", re.ASCII | re.IGNORECASE)
Sha1 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
_COMMIT = re.compile("[0-9a-f]{40}")


class _Large(Struct):
    """What an answer says of a file in LFS."""

    sha256: Sha256


class _Sibling(Struct):
    """What an answer says of one file."""

    rfilename: str
    size: Count
    blob_id: str = msgspec.field(name="blobId", default="")  # git's sha1
    lfs: _Large | None = None  # of a large file, for which the other is not asked

    def __post_init__(self):
        if self.lfs is None and not re.fullmatch("[0-9a-f]{40}", self.blob_id):
            raise ValueError(f"{self.rfilename!r}: expected a sha1, got {self.blob_id[:40]!r}")


class _Answer(Struct):
    """What the hub answers of a revision."""

    sha: Sha1
    siblings: list[_Sibling]


class _Record(Struct):
    """What is remembered of a revision."""

    commit: Sha1
    files: dict[RelativeName, RemoteFile]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a branch, tag or commit."""

    repo_id: str  # ORG/NAME
    revision: str

    @property
    def name(self) -> str:
        """Without its owner."""
        return self.repo_id.partition("/")[2]

    @property
    def quoted_revision(self) -> str:
        """For an address or the name of a file."""
        return quote(self.revision, safe="", errors="surrogateescape")

    def __str__(self) -> str:
        return (
            self.repo_id
            if self.revision == constants.DEFAULT_REVISION
            else f"{self.repo_id}@{self.revision}"
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is; reported for every MiB."""

    file: str  # on its way; empty while another process may be downloading the same
    done: int  # bytes of all files, those of earlier calls included
    total: int
    wait: float = 0  # seconds until the next attempt, after the connection was lost


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    repository: Repository
    commit: str
    files: Mapping[str, RemoteFile]  # by their paths in the repository
    is_offline: bool

    def within(
        self, budgets: Mapping[str, int], error: Callable[[str], Exception]
    ) -> dict[str, RemoteFile]:
        """Return these files, each of which may announce so many bytes.

        Raises:
            Exception: the one that `error` makes; a file announces more.
        """
        for name, budget in budgets.items():
            if (size := self.files[name].size) > budget:
                raise error(
                    f"{self.repository}: {name}: expected at most {budget:,} bytes, the hub "
                    f"announces {size:,}; choose another revision, ORG/NAME@REVISION"
                )
        return {name: self.files[name] for name in budgets}

    def folder(self, names: Iterable[str]) -> Path:
        """Where these files are kept, and others that follow from them."""
        facts = "\n".join(f"{name} {self.files[name].digest}" for name in sorted(names))
        return _home(self.repository) / hashlib.sha256(facts.encode()).hexdigest()[:16]

    def folder_of_others(self, names: Iterable[str]) -> Path | None:
        """Where huggingface_hub keeps these files, if other programs have downloaded them all.

        Links among them.
        """
        files = {name: self.files[name] for name in names}
        try:
            paths = {
                try_to_load_from_cache(self.repository.repo_id, name, revision=self.commit)
                for name in files
            }
        except HFValidationError:  # no repository that huggingface_hub would keep
            return None
        folders = {Path(path).parent for path in paths if isinstance(path, str)}
        return next((folder for folder in folders if not _missing(files, folder)), None)

    def remember(self) -> None:
        """Make this what the revision stands for offline."""
        if _recall(self.repository, self.is_offline) != self:
            path = _record_path(self.repository)
            with _named_errors(self.repository):
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, msgspec.json.encode(_Record(self.commit, dict(self.files))))

    def download(
        self,
        files: Mapping[str, RemoteFile],
        folder: Path,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """Bring the files that are missing.

        Each appears under its name when it is whole and its hash is right.

        Raises:
            StorageError: no connection, no access, too little disk, a wrong hash; or offline, and
                files are missing.
        """
        if not (missing := _missing(files, folder)):
            return
        if self.is_offline:
            raise StorageError(
                f"{self.repository}: offline, and not here yet: {', '.join(missing)}; "
                "run it once without --offline and HF_HUB_OFFLINE, with a connection"
            )
        require_disk({folder: remaining(files, folder)})
        with _named_errors(self.repository):
            folder.mkdir(parents=True, exist_ok=True)
            total = sum(file.size for file in files.values())
            on_progress(Progress("", total - remaining(files, folder), total))
            with lock(folder.with_name(f"{folder.name}.lock")):
                missing = _missing(files, folder)
                meter = _Meter(
                    on_progress, total - sum(file.size for file in missing.values()), total
                )
                meter.report("")  # that all is there, where another process brought it
                for name, file in missing.items():
                    meter.report(name)
                    path = folder / name
                    if not is_below(folder, path.parent):
                        raise StorageError(f"{path.parent}: leads out of {folder}; remove it")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    download(self.url(name), file, path, partial(meter.report, name))

    def url(self, name: str) -> str:
        """Where a file is."""
        place = f"{self.repository.repo_id}/resolve/{self.commit}"
        return f"{constants.ENDPOINT}/{place}/{quote(name)}"


class _Meter:
    """Adds up what came, and reports it in steps."""

    def __init__(self, on_progress: Callable[[Progress], None], done: int, total: int):
        self.on_progress, self.done, self.total = on_progress, done, total
        self.reported = Progress("", done, total)

    def report(self, file: str, came: int = 0, wait: float = 0) -> None:
        self.done += came
        is_step = self.done >= self.reported.done + BLOCK or self.done == self.total
        if is_step or wait or file != self.reported.file:
            self.reported = Progress(file, self.done, self.total, wait)
            self.on_progress(self.reported)


def find_repository(source: str | Path, revision: str | None = None) -> Repository | None:
    """The repository that ORG/NAME or ORG/NAME@REVISION names.

    None for a path that exists and for all other names.

    Raises:
        UsageError: a revision of what is no repository, or two.
    """
    match = REPOSITORY.fullmatch(str(source))
    if (
        isinstance(source, Path)
        or Path(source).exists()
        or match is None
        or match[0].endswith(".gguf")
    ):
        if revision is not None:
            raise UsageError(
                f"revision: only a repository of the hub, ORG/NAME, has revisions, {source} is none"
            )
        return None
    if revision is not None and match[2] is not None:
        raise UsageError(f"revision: expected one, got {quoted(match[2])} and {quoted(revision)}")
    return Repository(match[1], revision or match[2] or constants.DEFAULT_REVISION)


def look_up(repository: Repository, *, offline: bool = False) -> Snapshot:
    """Ask the hub what a repository holds.

    Offline, or when the revision is a commit known already, take what it said; where no hub
    answers too, with a warning.

    Raises:
        StorageError: no connection, no such repository or revision, no access; or offline, and it
            was never downloaded.
    """
    offline = offline or constants.HF_HUB_OFFLINE
    if offline or _COMMIT.fullmatch(repository.revision):
        if known := _recall(repository, offline):
            return known
        if offline:
            raise StorageError(
                f"{repository}: offline, and {_home(repository)} does not have it; "
                "run it once without --offline and HF_HUB_OFFLINE"
            )
    place = f"api/models/{repository.repo_id}/revision/{repository.quoted_revision}"
    url = f"{constants.ENDPOINT}/{place}?blobs=true"
    with _named_errors(repository):
        try:
            content = fetch(url, limits.HUB_ANSWER)
        except (ConnectionLostError, StatusError) as error:
            # A hub that answers has the last word: that it is gone, or for others
            is_unanswered = isinstance(error, ConnectionLostError) or error.is_passing
            if not is_unanswered or (known := _recall(repository, is_offline=True)) is None:
                raise
            warnings.warn(
                f"{repository}: no answer from {constants.ENDPOINT} ({error}); what was "
                "downloaded before is used",
                stacklevel=2,
            )
            return known
        answer = decode(
            _Answer,
            content,
            lambda reason: StorageError(
                f"{url}: not the answer of a hub ({reason}); check HF_ENDPOINT"
            ),
        )
    files = {
        file.rfilename: RemoteFile(file.size, file.lfs.sha256 if file.lfs else file.blob_id)
        for file in answer.siblings
        # Others would lead out of the folder, or stand where another is on its way
        if is_relative_name(file.rfilename) and not file.rfilename.endswith(".partial")
    }
    return Snapshot(repository, answer.sha, files, offline)


def remaining(files: Mapping[str, RemoteFile], folder: Path) -> int:
    """Bytes that a download of these files would still bring."""
    missing = _missing(files, folder)
    return sum(
        max(0, file.size - (_size(unfinished_of(folder / name)) or 0))
        for name, file in missing.items()
    )


def _recall(repository: Repository, is_offline: bool) -> Snapshot | None:
    """What was remembered of a repository, if anything that is sound."""
    try:
        content = read_within(_record_path(repository), limits.HUB_ANSWER, ValueError)
        record = decode(_Record, content, ValueError)
    except (OSError, ValueError):
        return None
    return Snapshot(repository, record.commit, record.files, is_offline)


def _home(repository: Repository) -> Path:
    """Where all of a repository is kept.

    Raises:
        StorageError: the user has no home, so that it would be a folder named ~ here.
    """
    if constants.HF_ASSETS_CACHE.startswith("~"):
        raise StorageError(f"{repository}: there is no home folder to keep it in; set HF_HOME")
    return Path(constants.HF_ASSETS_CACHE) / "voxtral-onnx" / repository.repo_id.replace("/", "--")


def _record_path(repository: Repository) -> Path:
    return _home(repository) / f"{repository.quoted_revision}.json"


def _missing(files: Mapping[str, RemoteFile], folder: Path) -> dict[str, RemoteFile]:
    return {name: file for name, file in files.items() if _size(folder / name) != file.size}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # a name that is too long here
        return None


@contextmanager
def _named_errors(repository: Repository) -> Iterator[None]:
    """Say in our words what went wrong, and what to do.

    Raises:
        StorageError: in the place of the errors of the connection and the system.
    """
    try:
        yield
    except StorageError:
        raise
    except StatusError as error:
        raise StorageError(_words_for(error, repository)) from error
    except ConnectionLostError as error:
        raise StorageError(
            f"{repository}: no such path here, and no connection to {constants.ENDPOINT} "
            f"({error}); run it again later, what has come is kept; --offline takes what was "
            "downloaded before"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{_home(repository)}: cannot be written ({error.strerror or error}); free space, or "
            "set HF_HOME to another folder; what has come is kept"
        ) from error


def _words_for(refusal: StatusError, repository: Repository) -> str:
    log_in = "log in (hf auth login) or set HF_TOKEN"
    if refusal.code == "GatedRepo":
        page = f"{constants.ENDPOINT}/{repository.repo_id}"
        return f"{repository}: accept its licence on {page}, then {log_in}"
    if refusal.code == "RepoNotFound":
        return (
            f"{repository}: neither a path here nor a repository that the hub shows; check the "
            f"name; if it is private, {log_in}"
        )
    if refusal.code == "RevisionNotFound":
        return f"{repository.repo_id}: no branch, tag or commit {repository.revision!r}"
    if refusal.status in (401, 403):
        return f"{repository}: the hub refuses the token (HTTP {refusal.status}); {log_in}"
    return (
        f"{repository}: the hub answers HTTP {refusal.status}; run it again later, what has come "
        "is kept"
    )
