"""The upload of an artifact, or of the web page with an artifact, to the Hugging Face hub.

All files are added in one commit, so that a repository never shows half of an artifact. Large files
are sent to the hub's storage before that commit, which makes them visible; if the upload is
interrupted, the next one does not send them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError
from msgspec import Raw, Struct

from .. import limits
from .._version import __version__
from ..addresses import REPOSITORY
from ..decode import RelativeName, decode
from ..download import BLOCK, ConnectionLostError, HTTPError, RemoteFile, StatusError, fetch
from ..errors import ArtifactError, StorageError, UsageError, VoxtralOnnxError
from ..manifest import CERTIFICATE, FILE_NAME, Manifest
from ..server.page.files import ARTIFACT, file_size, site_files
from ..verification.certificate import read_verdict
from .model_card import BaseModel, model_card

_Error = TypeVar("_Error", bound=Exception)

MODEL, SPACE = "model", "space"  # the hub's kinds of repositories
CARD = "README.md"
# Files that the hub itself puts into a new repository
FRESH = {".gitattributes", CARD, "index.html", "style.css"}


@dataclass(frozen=True, slots=True)
class Publication:
    """The files that a repository is to hold."""

    repo_id: str  # ORG/NAME
    kind: str  # MODEL or SPACE
    files: Mapping[str, Path | bytes]  # path on disk or content, by path in the repository
    sha256: Mapping[str, str]  # hashes of the files that the manifest names

    @property
    def card(self) -> str:
        """Return the text of the README.md."""
        card = self.files[CARD]
        assert isinstance(card, bytes)
        return card.decode()

    @property
    def sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes."""
        return {name: file_size(file) for name, file in self.files.items()}

    @property
    def manifest(self) -> str:
        """Return the manifest's path in the repository."""
        return f"{ARTIFACT}/{FILE_NAME}" if self.kind == SPACE else FILE_NAME

    def upload(
        self,
        *,
        private: bool = False,
        on_file: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> str:
        """Create the repository where it does not exist, and upload the files that it lacks.

        The same commit deletes files of an artifact that was published there before and that this
        one does not have.

        Args:
            private: create the repository as private.
            on_file: called before each file with its name, the bytes done and all bytes to send.

        Returns:
            The address of the repository.

        Raises:
            ArtifactError: a file changed while it was uploaded.
            StorageError: no token, no access, no connection; or the repository holds something
                else.
        """
        if get_token() is None:
            raise StorageError(
                "publishing needs a token that may write: log in (hf auth login) or set HF_TOKEN"
            )

        # Create the repository, and list what it holds
        api = HfApi(headers={"user-agent": f"voxtral-onnx/{__version__}"})
        options: dict[str, Any] = {"repo_id": self.repo_id, "repo_type": self.kind}
        with _named_errors(self.repo_id):
            sdk = "static" if self.kind == SPACE else None
            url = api.create_repo(**options, private=private, space_sdk=sdk, exist_ok=True)
            look_up = api.space_info if self.kind == SPACE else api.model_info
            info = look_up(self.repo_id, files_metadata=True)
            there = {
                file.rfilename: RemoteFile(
                    file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or ""
                )
                for file in info.siblings or ()
            }

            # Refuse a repository that is not meant for this artifact
            if private and not info.private:
                raise StorageError(
                    f"{self.repo_id}: exists and is public; leave --private out, or "
                    "choose another name"
                )
            if self.manifest not in there and (others := sorted(there.keys() - FRESH)):
                raise StorageError(
                    f"{self.repo_id}: holds something else than an artifact "
                    f"({', '.join(others[:3])}); choose another name"
                )

            # Send large files to the hub's storage
            missing = {
                name: file
                for name, file in self.files.items()
                if not _is_same(file, there.get(name))
            }
            stale = sorted(self._earlier(there, info.sha) - self.files.keys())
            additions, done, total = [], 0, sum(map(file_size, missing.values()))
            for name, file in missing.items():
                on_file(name, done, total)
                additions.append(CommitOperationAdd(name, file))
                api.preupload_lfs_files(**options, additions=additions[-1:], free_memory=False)
                done += file_size(file)

            # Commit, unless the files that were sent are not those that were checked
            for addition in additions:
                expected = self.sha256.get(addition.path_in_repo)
                if expected not in (None, addition.upload_info.sha256.hex()):
                    raise ArtifactError(
                        f"{addition.path_in_repo}: changed while it was uploaded; publish it again"
                    )
            if additions or stale:
                deletions = [CommitOperationDelete(name) for name in stale]
                message = f"voxtral-onnx {__version__}"
                api.create_commit(
                    **options,
                    operations=[*additions, *deletions],
                    commit_message=message,
                    parent_commit=info.sha,
                )
        return str(url)

    def _earlier(self, there: Mapping[str, RemoteFile], commit: str | None) -> set[str]:
        """Return the paths of files in the repository that an earlier upload has put there.

        In a Space these are all files; else those that the manifest there names.

        Raises:
            StorageError: that manifest cannot be downloaded or is damaged.
        """
        if self.manifest not in there:
            return set()
        if self.kind == SPACE:
            return there.keys() - {".gitattributes"}
        url = f"{constants.ENDPOINT}/{self.repo_id}/resolve/{commit}/{quote(self.manifest)}"
        try:
            content = fetch(url, limits.MANIFEST)
        except (ConnectionLostError, StatusError) as error:
            raise StorageError(
                f"{self.repo_id}: its {self.manifest} could not be downloaded ({error}); run it "
                "again later"
            ) from error
        manifest = decode(
            _Earlier,
            content,
            lambda reason: StorageError(
                f"{self.repo_id}: its {self.manifest} is damaged ({reason}); remove it there, or "
                "choose another name"
            ),
        )
        return {*manifest.files, *CERTIFICATE} & there.keys()


class _Earlier(Struct):
    """The part of a published manifest, of any format version, that the upload reads."""

    files: dict[RelativeName, Raw]


def publish(
    artifact: Path,
    repo_id: str,
    *,
    space: bool = False,
    private: bool = False,
    base_model: str | None = None,
    on_file: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> str:
    """Upload an artifact with a generated model card, or the web page with the artifact.

    The repository is created if it does not exist. Files that it already has are not sent again;
    the others are added in one commit.

    Args:
        artifact: folder of the artifact, with the files of all its precisions.
        repo_id: ORG/NAME.
        space: upload the static Space that `bundle(space=True)` writes, instead of a model.
        private: create the repository as private.
        base_model: ORG/NAME[@REVISION] of the checkpoint, for the card; None for the released
            model, where the artifact has that model's shape.
        on_file: called before each file with its name, the bytes done and all bytes to send.

    Returns:
        The address of the repository.

    Raises:
        ArtifactError: the artifact is incomplete, or a file differs from its hash; with `space`,
            onnxruntime-web is missing.
        StorageError: no token, no access, no connection; or the repository holds something else.
        UsageError: no repository can have that name.
    """
    publication = plan_publication(artifact, repo_id, space=space, base_model=base_model)
    return publication.upload(private=private, on_file=on_file)


def plan_publication(
    artifact: Path, repo_id: str, *, space: bool = False, base_model: str | None = None
) -> Publication:
    """Return what `publish` would upload with the same arguments, and send nothing.

    Raises:
        ArtifactError, UsageError: see `publish`.
    """
    if not ((match := REPOSITORY.fullmatch(repo_id)) and match[2] is None):
        raise UsageError(f"{repo_id}: expected the name of a repository, ORG/NAME")
    if base_model is not None and not REPOSITORY.fullmatch(base_model):
        raise UsageError(f"base model {base_model}: expected ORG/NAME or ORG/NAME@REVISION")

    # The page with the artifact
    if space:
        manifest, files = site_files(artifact, space=True)
        manifest.check_files(artifact, manifest.precisions, hashes=True, no_links_out=True)
        hashes = {f"{ARTIFACT}/{name}": file.sha256 for name, file in manifest.files.items()}
        return Publication(repo_id, SPACE, files, hashes)

    # The artifact with a model card
    manifest = Manifest.read(artifact)
    manifest.check_files(artifact, hashes=True, no_links_out=True)
    files = {
        name: artifact / name
        for name in (*manifest.files, FILE_NAME, *CERTIFICATE)
        if (artifact / name).exists()
    }
    sizes = {name: file_size(file) for name, file in files.items()}
    said, base = read_verdict(artifact, published=True), BaseModel.of(manifest, base_model)
    card = model_card(manifest, repo_id, sizes, said.line, base)
    hashes = {name: file.sha256 for name, file in manifest.files.items()}
    return Publication(repo_id, MODEL, {CARD: card.encode(), **files}, hashes)


def _is_same(file: Path | bytes, remote: RemoteFile | None) -> bool:
    """Return whether the repository has this file already, by its hash."""
    if remote is None or remote.size != file_size(file):
        return False
    digest = remote.hash()
    if isinstance(file, bytes):
        digest.update(file)
    else:
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                digest.update(block)
    return digest.hexdigest() == remote.digest


@contextmanager
def _named_errors(repo_id: str) -> Iterator[None]:
    """Turn the errors of an upload into one that says why it failed and what to do.

    Raises:
        StorageError: instead of the errors of huggingface_hub, its HTTP client and its storage.
    """
    again = "run it again: files that have arrived are not sent twice"
    try:
        yield
    except VoxtralOnnxError:
        raise
    # Storage clients wrap errors, and fail with others where an answer is not a hub's
    except (
        HTTPError,
        RuntimeError,
        ValueError,
        OSError,
        AttributeError,
        LookupError,
        TypeError,
    ) as error:
        # Without an answer of the hub, the connection failed
        answer, lost = _cause(error, HfHubHTTPError), _cause(error, HTTPError)
        if answer is None:
            what = (
                f"no connection to {constants.ENDPOINT}, or it was lost"
                if lost
                else "the upload was interrupted"
            )
            raise StorageError(f"{repo_id}: {what} ({lost or error}); {again}") from error

        # With an answer, its status tells the reason
        status = answer.response.status_code
        advice = {
            401: "the hub refuses the token; log in with another (hf auth login) or set HF_TOKEN",
            403: "the token may not write there; use one that may, or choose another name",
            404: "no such owner, or the token does not see the repository; check the name and the "
            "token",
            409: "somebody changed the repository meanwhile; run it again",
            412: "somebody changed the repository meanwhile; run it again",
        }.get(status, f"{answer.server_message or 'without a reason'}; {again} later")
        raise StorageError(f"{repo_id}: HTTP {status}: {advice}") from error


def _cause(error: BaseException | None, kind: type[_Error]) -> _Error | None:
    """Return the error of a class in the chain of causes of an error, if there is one."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
