"""Repositories of the Hugging Face hub: their file lists, and downloads with checked hashes.

    HF_HOME/assets/voxtral-onnx/ORG--NAME/
        main.json         commit and file list of this revision, written when all needed files
                          were downloaded; read with --offline
        5f3c…/            downloaded files, in a folder named by a hash of their contents, so that
                          a new commit that changes none of them downloads nothing
        5f3c…/*.partial   an unfinished file, which a later call resumes
        5f3c….lock        held by the process that downloads; others wait for it

`huggingface_hub` provides the server's address, the token and the proxy. Its own downloads are not
used: they start over after a killed process and compare no hashes, and its cache consists of
symbolic links, which onnx and OpenVINO refuse in models.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated
from urllib.parse import quote

import msgspec
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from msgspec import Meta, Struct

from . import limits
from .addresses import Address, read_name
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

_log = logging.getLogger(__name__)

Sha1 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
_COMMIT = re.compile("[0-9a-f]{40}")


class _Large(Struct):
    """The part of the hub's answer about a file in LFS."""

    sha256: Sha256


class _Sibling(Struct):
    """The part of the hub's answer about one file."""

    rfilename: str
    size: Count
    blob_id: str = msgspec.field(name="blobId", default="")  # git's sha1
    lfs: _Large | None = None  # of a large file, whose blob_id is not used

    def __post_init__(self):
        if self.lfs is None and not re.fullmatch("[0-9a-f]{40}", self.blob_id):
            raise ValueError(f"{self.rfilename!r}: expected a sha1, got {self.blob_id[:40]!r}")


class _Answer(Struct):
    """The hub's answer about a revision."""

    sha: Sha1
    siblings: list[_Sibling]


class _Record(Struct):
    """The content of main.json: what is known of a revision without asking the hub."""

    commit: Sha1
    files: dict[RelativeName, RemoteFile]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a branch, tag or commit."""

    repo_id: str  # ORG/NAME
    revision: str

    @property
    def name(self) -> str:
        """Return the repository's name without its owner."""
        return self.repo_id.partition("/")[2]

    @property
    def quoted_revision(self) -> str:
        """Return the revision percent-encoded, for URLs and file names."""
        return quote(self.revision, safe="", errors="surrogateescape")

    def __str__(self) -> str:
        return (
            self.repo_id
            if self.revision == constants.DEFAULT_REVISION
            else f"{self.repo_id}@{self.revision}"
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a download, reported after every MiB."""

    file: str  # now downloaded; empty while another process may be downloading the same files
    done: int  # bytes of all files, those from earlier calls included
    total: int  # bytes of all files
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
        """Return some files after checking their announced sizes.

        Args:
            budgets: the most bytes of each file, by its path in the repository.
            error: makes the exception to raise from the reason.

        Raises:
            Exception: the one that `error` makes; a file is larger than its budget.
        """
        for name, budget in budgets.items():
            if (size := self.files[name].size) > budget:
                raise error(
                    f"{self.repository}: {name}: expected at most {budget:,} bytes, the hub "
                    f"announces {size:,}; choose another revision, ORG/NAME@REVISION"
                )
        return {name: self.files[name] for name in budgets}

    def folder(self, names: Iterable[str]) -> Path:
        """Return the folder in which these files are kept, named by a hash of their contents."""
        facts = "\n".join(f"{name} {self.files[name].digest}" for name in sorted(names))
        return _home(self.repository) / hashlib.sha256(facts.encode()).hexdigest()[:16]

    def folder_of_others(self, names: Iterable[str]) -> Path | None:
        """Return the folder of huggingface_hub's own cache that has all of these files, or None.

        They are there if other programs have downloaded them. Some may be symbolic links.
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
        """Write commit and file list of the revision, for later calls without a connection.

        Raises:
            StorageError: the folder cannot be written.
        """
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
        """Download the files that a folder lacks.

        Each file appears under its name when it is complete and its hash is right.

        Args:
            files: the files to have, by their paths in the repository.
            folder: the folder to write to.
            on_progress: called for every MiB, and before each wait for a connection.

        Raises:
            StorageError: no connection, no access, too little disk or a wrong hash; or files are
                missing and the snapshot is offline.
        """
        # Check what is missing
        if not (missing := _missing(files, folder)):
            return
        if self.is_offline:
            raise StorageError(
                f"{self.repository}: offline, and not here yet: {', '.join(missing)}; "
                "run it once without --offline and HF_HUB_OFFLINE, with a connection"
            )
        require_disk({folder: remaining(files, folder)})

        # Download it while no other process does
        with _named_errors(self.repository):
            folder.mkdir(parents=True, exist_ok=True)
            total = sum(file.size for file in files.values())
            on_progress(Progress("", total - remaining(files, folder), total))
            with lock(folder.with_name(f"{folder.name}.lock")):
                missing = _missing(files, folder)
                meter = _Meter(
                    on_progress, total - sum(file.size for file in missing.values()), total
                )
                meter.report("")  # shows 100 % if another process has downloaded everything
                began, size = monotonic(), sum(file.size for file in missing.values()) / 1e6
                if missing:
                    _log.info("%s: downloading %.1f MB", self.repository, size)
                for name, file in missing.items():
                    meter.report(name)
                    path = folder / name
                    if not is_below(folder, path.parent):
                        raise StorageError(f"{path.parent}: leads out of {folder}; remove it")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    download(self.url(name), file, path, partial(meter.report, name))
                if missing:
                    seconds = monotonic() - began
                    _log.info("%s: %.1f MB downloaded in %.1f s", self.repository, size, seconds)

    def head(self, name: str) -> bytes:
        """Return the first BLOCK bytes of a file, without keeping them.

        Raises:
            StorageError: no connection, or no access.
        """
        with _named_errors(self.repository):
            return fetch(self.url(name), BLOCK, is_cut=True)

    def url(self, name: str) -> str:
        """Return the URL of a file at this commit."""
        place = f"{self.repository.repo_id}/resolve/{self.commit}"
        return f"{constants.ENDPOINT}/{place}/{quote(name)}"


class _Meter:
    """A counter of received bytes that reports its progress in steps of BLOCK bytes."""

    def __init__(self, on_progress: Callable[[Progress], None], done: int, total: int):
        self.on_progress, self.done, self.total = on_progress, done, total
        self.reported = Progress("", done, total)

    def report(self, file: str, came: int = 0, wait: float = 0) -> None:
        self.done += came
        is_step = self.done >= self.reported.done + BLOCK or self.done == self.total
        if is_step or wait or file != self.reported.file:
            self.reported = Progress(file, self.done, self.total, wait)
            self.on_progress(self.reported)


def find_repository(source: str | Path | Address, revision: str | None = None) -> Repository | None:
    """Return the repository that ORG/NAME, ORG/NAME@REVISION or an address of the hub names.

    The result is None for an existing path, for a GGUF file and for names of another form.

    Args:
        source: the name, address or path.
        revision: branch, tag or commit, if the name has none.

    Raises:
        UsageError: a revision is given for something else than a repository, or two are given; or
            the address is not a repository's.
    """
    address = source if isinstance(source, Address) else read_name(source)
    if address is None:
        if revision is not None:
            raise UsageError(
                f"revision: only a repository of the hub, ORG/NAME, has revisions, {source} is none"
            )
        return None
    if address.file is not None:
        raise UsageError(
            f"{source}: the address of a file, expected that of a repository; name {address}, or, "
            f"if the file is a GGUF, export it first: voxtral-onnx export {source}"
        )
    if revision is not None and address.revision is not None:
        raise UsageError(
            f"revision: expected one, got {quoted(address.revision)} and {quoted(revision)}"
        )
    chosen = revision or address.revision or constants.DEFAULT_REVISION
    return Repository(address.repo_id, chosen)


def look_up(repository: Repository, *, offline: bool = False) -> Snapshot:
    """Return the commit and file list of a repository's revision, as the hub answers.

    What `Snapshot.remember` wrote is returned instead if `offline` or HF_HUB_OFFLINE is set, if the
    revision is a commit (which cannot change), and, with a warning, if the hub cannot be reached.

    Raises:
        StorageError: no connection, no such repository or revision, or no access; or offline, and
            nothing was remembered.
    """
    # Use what is remembered
    offline = offline or constants.HF_HUB_OFFLINE
    if offline or _COMMIT.fullmatch(repository.revision):
        if known := _recall(repository, offline):
            return known
        if offline:
            raise StorageError(
                f"{repository}: offline, and {_home(repository)} does not have it; "
                "run it once without --offline and HF_HUB_OFFLINE"
            )

    # Ask the hub
    place = f"api/models/{repository.repo_id}/revision/{repository.quoted_revision}"
    url = f"{constants.ENDPOINT}/{place}?blobs=true"
    with _named_errors(repository):
        try:
            content = fetch(url, limits.HUB_ANSWER)
        except (ConnectionLostError, StatusError) as error:
            # A refusal is final: the repository may be deleted, or closed to this user
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
        # Other names would lead out of the folder, or clash with unfinished downloads
        if is_relative_name(file.rfilename) and not file.rfilename.endswith(".partial")
    }
    return Snapshot(repository, answer.sha, files, offline)


def remaining(files: Mapping[str, RemoteFile], folder: Path) -> int:
    """Return the bytes that a download of these files into a folder would still transfer."""
    missing = _missing(files, folder)
    return sum(
        max(0, file.size - (_size(unfinished_of(folder / name)) or 0))
        for name, file in missing.items()
    )


def _recall(repository: Repository, is_offline: bool) -> Snapshot | None:
    """Return the remembered snapshot of a revision; None if there is none or it is damaged."""
    try:
        content = read_within(_record_path(repository), limits.HUB_ANSWER, ValueError)
        record = decode(_Record, content, ValueError)
    except (OSError, ValueError):
        return None
    return Snapshot(repository, record.commit, record.files, is_offline)


def _home(repository: Repository) -> Path:
    """Return the folder in which everything of a repository is kept.

    Raises:
        StorageError: the user has no home folder, so that `~` in its path has no value.
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
    """Turn errors of the connection and the system into ones that name a remedy.

    Raises:
        StorageError: in place of ConnectionLostError, StatusError and OSError.
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
