"""The search for the model that a user has named, and its download if it is on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from .. import limits
from ..arguments import CALLBACK, FLAG, MODEL, accepts, optional
from ..assets import TINY, TINY_ARTIFACT
from ..decode import decode, read_within
from ..errors import ArtifactError, StorageError, UsageError
from ..escaping import quoted
from ..files import atomic_write, lock, user_folder
from ..manifest import CERTIFICATE, FILE_NAME, Manifest

if TYPE_CHECKING:
    from ..hub import Progress, Repository

ENVIRONMENT_VARIABLE = "VOXTRAL_ONNX_MODEL"
USE_TINY = "  voxtral-onnx transcribe --model tiny AUDIO  # with the small test model"
MAKE_TINY = (
    "  voxtral-onnx export tiny  # makes the small test model; needs the extra export, or in a "
    "clone: make demo"
)
PACKAGE = Path(__file__).resolve().parents[1]
MOST_PACKAGES = 16  # whose test models are remembered, the latest ones
DEFAULT_PRECISIONS = ("q4f16", "q4", "q8", "fp16", "fp32")  # the first available one is the default


@accepts(model=optional(MODEL), offline=FLAG, on_download=CALLBACK)
def find_artifact(
    model: str | Path | None = None,
    precisions: Sequence[str] | None = None,
    *,
    offline: bool = False,
    on_download: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Return the folder of an artifact, that is, of an exported model.

    Args:
        model: the folder; "tiny"; or ORG/NAME[@REVISION] on the hub or its address. None takes
            $VOXTRAL_ONNX_MODEL, else the last finished export.
        precisions: whose files are downloaded from the hub, as `choose_precisions` takes them.
        offline: use only files that were downloaded before.
        on_download: called for every MiB of a download.

    Raises:
        ArtifactError: nothing was named or exported, or what was named is no artifact.
        StorageError: the files cannot be downloaded, as for `hub.Snapshot.download`.
        UsageError: as for `choose_precisions`.
    """
    # Choose a name
    asked = model or os.environ.get(ENVIRONMENT_VARIABLE)
    if not asked:
        asked = _remembered().last_export
        if asked and not _exists(Path(asked)):
            raise ArtifactError(
                f"the last export, {asked}, is not there any more; name a model with --model, or "
                "export again"
            )
    if not asked:
        test_model = USE_TINY if (TINY_ARTIFACT / FILE_NAME).exists() else MAKE_TINY
        raise ArtifactError(
            "no model: name one, as FOLDER or ORG/NAME, or run one of\n"
            f"{test_model}\n"
            "  voxtral-onnx export  # downloads the released model, 2.5 or 8.9 GB"
        )

    # Take the test model, or one from the hub, unless there is a folder of this name
    if str(asked) == "tiny" and not Path(asked).is_dir():
        return _test_model()
    folder = Path(asked)
    if isinstance(asked, str) and not _exists(folder):
        from ..hub import find_repository  # late: its imports take 0.3 s

        if repository := find_repository(asked):
            return _fetch(repository, precisions, offline, on_download)

    # Take a folder, and refuse a checkpoint
    is_checkpoint = folder.suffix.lower() == ".gguf" or any(
        _exists(folder / name)
        for name in ("params.json", "consolidated.safetensors", "config.json")
    )
    if is_checkpoint and not _exists(folder / FILE_NAME):
        raise ArtifactError(
            f"{folder}: a checkpoint, not an artifact; run: voxtral-onnx export {folder}"
        )
    if not _exists(folder):
        raise ArtifactError(
            f"{folder}: no such folder; export a model first: voxtral-onnx export SOURCE"
        )
    return folder


def _test_model() -> Path:
    """Return the folder of the packaged test model, or of its last export by this package.

    That of another checkout may have been made by other code.

    Raises:
        ArtifactError: there is neither, as where a checkout was installed.
    """
    if (TINY_ARTIFACT / FILE_NAME).exists():
        return TINY_ARTIFACT
    made = _remembered().test_models.get(str(PACKAGE))
    if made and _is_test_model(Path(made)):
        return Path(made)
    raise ArtifactError(
        f"tiny: was not exported yet, or its folder is gone; make it first:\n{MAKE_TINY}"
    )


def _is_test_model(folder: Path) -> bool:
    """Return whether a folder holds an artifact of the test model; False if it is damaged."""
    scope = json.loads((TINY / "card.json").read_text(encoding="utf-8"))["scope"]
    try:
        return Manifest.read(folder).scope == scope
    except ArtifactError:
        return False


def _exists(path: Path) -> bool:
    """Return whether a file or folder exists.

    Raises:
        ArtifactError: that cannot be found out, because the name is too long or access is denied.
    """
    try:
        return path.exists()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be looked at ({error.strerror or error})") from error


def open_artifact(
    folder: Path, precisions: Sequence[str] | None = None
) -> tuple[Manifest, list[str]]:
    """Read the manifest, choose precisions and check the sizes of their files.

    Returns:
        the manifest, and the names of the chosen precisions; files of others may be missing.

    Raises:
        ArtifactError: the folder has no manifest, its format is of another version, or a file is
            missing or has another size.
        UsageError: as for `choose_precisions`.
    """
    manifest = Manifest.read(folder)
    chosen = choose_precisions(manifest, precisions)
    manifest.check_files(folder, chosen)
    return manifest, chosen


def choose_precisions(manifest: Manifest, asked: Sequence[str] | None = None) -> list[str]:
    """Return the names of precisions that are to be used.

    Args:
        manifest: of the artifact.
        asked: names; ["all"] for all; None for the first of DEFAULT_PRECISIONS that the artifact
            has.

    Raises:
        UsageError: the artifact does not have a precision that was asked for.
        ArtifactError: it has none of DEFAULT_PRECISIONS.
    """
    if asked is None:
        asked = [name for name in DEFAULT_PRECISIONS if name in manifest.precisions][:1]
        if not asked:
            known = ", ".join(DEFAULT_PRECISIONS)
            raise ArtifactError(f"the artifact has none of the precisions {known}; export again")
    if list(asked) == ["all"]:
        return list(manifest.precisions)
    for name in asked:
        if name not in manifest.precisions:
            known = (
                f"add it: voxtral-onnx export SOURCE -o ARTIFACT --precision {name}"
                if name in DEFAULT_PRECISIONS
                else f"there are {', '.join(DEFAULT_PRECISIONS)}"
            )
            raise UsageError(
                f"precision: the artifact has {', '.join(manifest.precisions)}, not "
                f"{quoted(name)}; {known}"
            )
    return list(asked)


def _fetch(
    repository: Repository,
    precisions: Sequence[str] | None,
    offline: bool,
    on_download: Callable[[Progress], None],
) -> Path:
    """Download the files of some precisions of an artifact on the hub, and its certificate.

    Returns:
        the folder with these files.

    Raises:
        ArtifactError: the repository holds no artifact, or not the files that its manifest names.
        StorageError: as for `hub.Snapshot.download`.
        UsageError: as for `choose_precisions`.
    """
    from .. import hub
    from ..download import RemoteFile

    # Look at the repository, and download the manifest
    snapshot = hub.look_up(repository, offline=offline)
    if FILE_NAME not in snapshot.files:
        if snapshot.files.keys() & {"params.json", "config.json"}:
            raise ArtifactError(
                f"{repository}: a checkpoint, not an artifact; run: voxtral-onnx "
                f"export {repository}"
            )
        raise ArtifactError(f"{repository}: no {FILE_NAME}: not an exported artifact")
    folder = snapshot.folder([FILE_NAME])
    manifest_file = snapshot.within({FILE_NAME: limits.MANIFEST}, ArtifactError)
    snapshot.download(manifest_file, folder, on_download)

    # List the files that the precisions need
    manifest = Manifest.read(folder)
    needed = {
        name: RemoteFile(file.size, file.sha256)
        for name, file in manifest.files_of(choose_precisions(manifest, precisions)).items()
    }
    if wrong := [
        name for name, file in needed.items() if not file.may_be(snapshot.files.get(name))
    ]:
        raise ArtifactError(
            f"{repository}: its {FILE_NAME} names other files than it holds: {', '.join(wrong)}; "
            "choose another revision, ORG/NAME@REVISION"
        )

    # Add the certificate, unless `verify` has written one here; artifacts run without
    if not snapshot.is_offline:
        new = [
            name for name in CERTIFICATE if name in snapshot.files and not (folder / name).exists()
        ]
        needed |= snapshot.within(dict.fromkeys(new, limits.CERTIFICATE), ArtifactError)

    # Download them
    snapshot.download(needed, folder, on_download)
    snapshot.remember()
    return folder


def downloaded_from(folder: Path) -> str | None:
    """Return ORG/NAME of the repository from which a folder was downloaded, or None."""
    from huggingface_hub import constants  # late: it takes 0.3 s

    home, place = Path(constants.HF_ASSETS_CACHE, "voxtral-onnx").resolve(), folder.resolve()
    if home not in place.parents:
        return None
    return place.relative_to(home).parts[0].replace("--", "/", 1)  # names on the hub have no "--"


def remember_export(folder: Path) -> None:
    """Make this artifact the default of commands that run a model.

    Raises:
        StorageError: the user's state folder cannot be written.
    """
    path = _state_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be made ({error.strerror or error})") from error
    place = str(folder.resolve())
    with lock(path.with_suffix(".lock")):  # else exports at the same time forget each other's
        test_models = _remembered().test_models
        if _is_test_model(folder):
            test_models.pop(str(PACKAGE), None)
            latest = [*test_models.items(), (str(PACKAGE), place)][-MOST_PACKAGES:]
            test_models = dict(latest)
        atomic_write(path, msgspec.json.encode(_State(place, test_models)))


def _remembered() -> _State:
    """Return the paths that were remembered; relative ones are not trusted."""
    try:
        found = decode(_State, read_within(_state_file(), limits.STATE, ValueError), ValueError)
    except (OSError, ValueError):
        return _State()
    last, made = found.last_export, found.test_models
    return _State(
        last if last and Path(last).is_absolute() else None,
        {package: path for package, path in made.items() if Path(path).is_absolute()},
    )


def _state_file() -> Path:
    return user_folder("state") / "state.json"


_Place = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]+\Z")]


class _State(Struct, omit_defaults=True):
    """The content of `state.json`."""

    last_export: _Place | None = None
    # The last export of the packaged checkpoint, by the folder of the package that has made it
    test_models: Annotated[dict[_Place, _Place], Meta(max_length=MOST_PACKAGES)] = {}
