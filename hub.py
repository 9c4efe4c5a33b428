"""Repositories of the Hugging Face hub: what they hold, and downloads that are whole and checked.

    HF_HOME/assets/voxtral-onnx/ORG--NAME/
        main.json         what the hub said of this revision when all that was needed of it had
                          come; for --offline
        5f3c…/            files, in a folder named for their content: a commit that changes none of
                          them downloads none
        5f3c…/*.partial   on its way; a later call goes on with it
        *.lock            locked by who writes; others wait

`huggingface_hub` knows the server, the token, the proxy and the errors. Its own downloads would not
do: they begin anew after a kill, compare no hashes, and its cache consists of links, which onnx and
OpenVINO refuse in models.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from huggingface_hub import constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, get_session, hf_raise_for_status

from ._version import __version__
from .errors import StorageError, UsageError
from .files import atomic_write, fsync_dir, require_disk

# Seconds before further attempts, counted anew whenever bytes have come
WAITS = (1.0, 2.0, 4.0, 8.0)
BLOCK = 1 << 20  # bytes after which progress is reported

REPOSITORY = re.compile(r"([a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(?:@(.+))?", re.ASCII | re.IGNORECASE)
_COMMIT = re.compile("[0-9a-f]{40}")
_PASSING = {408, 429, 500, 502, 503, 504}  # HTTP statuses that the next attempt may not meet
# The base of all errors of the HTTP client: httpx's or httpx2's, as the version of huggingface_hub
# has it.
HTTPError = cast(type[Exception], HfHubHTTPError.__mro__[1])


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a branch, tag or commit."""

    repo_id: str  # ORG/NAME
    revision: str

    @property
    def name(self) -> str:
        """Without its owner."""
        return self.repo_id.partition("/")[2]

    def __str__(self) -> str:
        return (
            self.repo_id
            if self.revision == constants.DEFAULT_REVISION
            else f"{self.repo_id}@{self.revision}"
        )


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a download must turn out to be."""

    size: int  # bytes
    digest: str  # sha256; or git's sha1, of a file that the repository does not keep in LFS

    def hash(self) -> Any:
        """What the content is fed to."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def may_be(self, other: RemoteFile | None) -> bool:
        """Whether two descriptions do not rule each other out."""
        if other is None or other.size != self.size:
            return False
        return len(other.digest) != len(self.digest) or other.digest == self.digest


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

    def folder(self, names: Iterable[str]) -> Path:
        """Where these files are kept, and others that follow from them."""
        facts = "\n".join(f"{name} {self.files[name].digest}" for name in sorted(names))
        return _home(self.repository) / hashlib.sha256(facts.encode()).hexdigest()[:16]

    def folder_of_others(self, names: Iterable[str]) -> Path | None:
        """Where huggingface_hub keeps these files, if other programs have downloaded them all.

        Links among them.
        """
        files = {name: self.files[name] for name in names}
        paths = {
            try_to_load_from_cache(self.repository.repo_id, name, revision=self.commit)
            for name in files
        }
        folders = {Path(path).parent for path in paths if isinstance(path, str)}
        return next((folder for folder in folders if not _missing(files, folder)), None)

    def remember(self) -> None:
        """Make this what the revision stands for offline."""
        if _recall(self.repository, self.is_offline) != self:
            files = {name: asdict(file) for name, file in self.files.items()}
            record = _record(self.repository)
            with (
                _named_errors(self.repository),
                WeakFileLock(record.with_name(f"{record.name}.lock")),
            ):
                atomic_write(record, json.dumps({"commit": self.commit, "files": files}).encode())

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
                "run it once without --offline and HF_HUB_OFFLINE"
            )
        require_disk({folder: remaining(files, folder)})
        with _named_errors(self.repository):
            folder.mkdir(parents=True, exist_ok=True)
            total = sum(file.size for file in files.values())
            on_progress(Progress("", total - remaining(files, folder), total))
            with WeakFileLock(folder.with_name(f"{folder.name}.lock")):
                missing = _missing(files, folder)
                meter = _Meter(
                    on_progress, total - sum(file.size for file in missing.values()), total
                )
                meter.report("")  # that all is there, where another process brought it
                for name, file in missing.items():
                    meter.report(name)
                    place = f"{self.repository.repo_id}/resolve/{self.commit}"
                    url = f"{constants.ENDPOINT}/{place}/{quote(name)}"
                    _download(url, file, folder / name, partial(meter.report, name))


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


class _Patience:
    """How long to wait before the next attempt."""

    def __init__(self, waits: Sequence[float]):
        self.waits = iter(waits)

    def after(self, error: Exception) -> float:
        """Seconds.

        Or the error again, where another attempt would meet the same or enough were made.
        """
        wait = next(self.waits, None)
        if wait is None or (
            isinstance(error, HfHubHTTPError) and error.response.status_code not in _PASSING
        ):
            raise error
        return wait


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
        raise UsageError(f"revision: expected one, got {match[2]!r} and {revision!r}")
    return Repository(match[1], revision or match[2] or constants.DEFAULT_REVISION)


def look_up(repository: Repository, *, offline: bool = False) -> Snapshot:
    """Ask the hub what a repository holds.

    Offline, or when the revision is a commit known already, take what it said.

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
    revision = quote(repository.revision, safe="")
    url = f"{constants.ENDPOINT}/api/models/{repository.repo_id}/revision/{revision}"
    patience = _Patience(WAITS[:2])  # nothing is lost yet
    with _named_errors(repository):
        while True:
            try:
                response = get_session().get(
                    url, params={"blobs": True}, headers=_headers(), timeout=_timeout()
                )
                hf_raise_for_status(response)
                break
            except HTTPError as error:
                time.sleep(patience.after(error))
        try:
            return Snapshot(repository, *_parse(response.json()), offline)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"{url}: not the answer of a hub ({error!r}); check HF_ENDPOINT"
            ) from error


def remaining(files: Mapping[str, RemoteFile], folder: Path) -> int:
    """Bytes that a download of these files would still bring."""
    missing = _missing(files, folder)
    return sum(
        max(0, file.size - (_size(_unfinished(folder / name)) or 0))
        for name, file in missing.items()
    )


def _recall(repository: Repository, is_offline: bool) -> Snapshot | None:
    """What was remembered of a repository, if anything."""
    try:
        values = json.loads(_record(repository).read_bytes())
        files = {name: RemoteFile(**file) for name, file in values["files"].items()}
        return Snapshot(repository, values["commit"], files, is_offline)
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _parse(answer: Mapping[str, Any]) -> tuple[str, dict[str, RemoteFile]]:
    """Commit and files out of the hub's answer.

    A name that would lead out of the folder is left out.
    """
    files = {}
    for entry in answer["siblings"]:
        name, lfs = entry["rfilename"], entry.get("lfs")
        if not ({"", "..", "."} & {*name.split("/")} or "\\" in name or ":" in name):
            files[name] = RemoteFile(
                int(entry["size"]), str(lfs["sha256"] if lfs else entry["blobId"])
            )
    return str(answer["sha"]), files


def _download(url: str, file: RemoteFile, path: Path, report: Callable[..., None]) -> None:
    """Bring one file, going on with what an earlier call left of it."""
    unfinished, digest, size, patience = _unfinished(path), file.hash(), 0, _Patience(WAITS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished.open("a+b") as handle:
        handle.seek(0)
        while block := handle.read(BLOCK):
            digest.update(block)
            size += len(block)
            report(len(block))
        while size < file.size:
            try:
                for block in _receive(url, size):
                    handle.write(block)
                    digest.update(block)
                    size += len(block)
                    report(len(block))
                    patience = _Patience(WAITS)
            except HTTPError as error:
                wait = patience.after(error)
                report(wait=wait)
                time.sleep(wait)
        handle.flush()
        os.fsync(handle.fileno())
    if digest.hexdigest() != file.digest:
        unfinished.unlink()
        raise StorageError(
            f"{path.name}: expected {file.size:,} bytes with hash {file.digest[:16]}…, got "
            f"{size:,} with {digest.hexdigest()[:16]}…; they were removed, download it again"
        )
    unfinished.replace(path)
    fsync_dir(path.parent)


def _receive(url: str, start: int) -> Iterator[bytes]:
    """Content from byte `start` on.

    A server that knows no ranges sends all, of which the beginning is skipped.
    """
    headers = _headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=_timeout()) as response:
        hf_raise_for_status(response)
        skip = start if response.status_code == 200 else 0
        for block in response.iter_bytes():
            if len(block) > skip:
                yield block[skip:]
            skip = max(0, skip - len(block))


def _headers() -> dict[str, str]:
    """Who asks; huggingface_hub's own headers would also tell what is installed here."""
    headers = {"User-Agent": f"voxtral-onnx/{__version__}"}
    if not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and (token := get_token()):
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _timeout() -> int:
    """Seconds without a byte after which a connection counts as lost."""
    return constants.HF_HUB_DOWNLOAD_TIMEOUT


def _home(repository: Repository) -> Path:
    """Where all of a repository is kept."""
    return Path(constants.HF_ASSETS_CACHE) / "voxtral-onnx" / repository.repo_id.replace("/", "--")


def _record(repository: Repository) -> Path:
    return _home(repository) / f"{quote(repository.revision, safe='')}.json"


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _missing(files: Mapping[str, RemoteFile], folder: Path) -> dict[str, RemoteFile]:
    return {name: file for name, file in files.items() if _size(folder / name) != file.size}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@contextmanager
def _named_errors(repository: Repository) -> Iterator[None]:
    """Say in our words what went wrong, and what to do.

    Raises:
        StorageError: in the place of the errors of huggingface_hub, its HTTP client and the system.
    """
    log_in = "log in (hf auth login) or set HF_TOKEN"
    try:
        yield
    except StorageError:
        raise
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{repository.repo_id}"
        raise StorageError(f"{repository}: accept its licence on {page}, then {log_in}") from error
    except RepositoryNotFoundError as error:
        raise StorageError(
            f"{repository}: neither a path here nor a repository that the hub shows; check the "
            f"name; if it is private, {log_in}"
        ) from error
    except RevisionNotFoundError as error:
        raise StorageError(
            f"{repository.repo_id}: no branch, tag or commit {repository.revision!r}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise StorageError(
                f"{repository}: the hub refuses the token (HTTP {status}); {log_in}"
            ) from error
        raise StorageError(
            f"{repository}: the hub answers HTTP {status}; run it again later, what has come is "
            "kept"
        ) from error
    except HTTPError as error:
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
