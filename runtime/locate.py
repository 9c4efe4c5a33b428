"""Finding the artifact that a user means, and bringing one that is published on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from .. import limits
from ..arguments import CALLBACK, FLAG, MODEL, accepts, optional
from ..assets import TINY_ARTIFACT
from ..decode import decode, read_within
from ..errors import ArtifactError, StorageError, UsageError
from ..escaping import quoted
from ..files import atomic_write, user_folder
from ..manifest import CERTIFICATE, FILE_NAME, Manifest

if TYPE_CHECKING:
    from ..hub import Progress, Repository

ENVIRONMENT_VARIABLE = "VOXTRAL_ONNX_MODEL"
DEFAULT_PRECISIONS = ("q4f16", "q4", "q8", "fp16", "fp32")  # the first that the artifact has


@accepts(model=optional(MODEL), offline=FLAG, on_download=CALLBACK)
def find_artifact(
    model: str | Path | None = None,
    precisions: Sequence[str] | None = None,
    *,
    offline: bool = False,
    on_download: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """The folder of the artifact: `model`, else $VOXTRAL_ONNX_MODEL, else the last finished export.

    Of an artifact that ORG/NAME[@REVISION] names, what `precisions` need is downloaded; as
    `choose_precisions` takes them.

    Raises:
        ArtifactError: nothing was named or exported, or what was named is not an artifact.
        StorageError: as `hub.Snapshot.download`.
        UsageError: as `choose_precisions`.
    """
    asked = model or os.environ.get(ENVIRONMENT_VARIABLE) or _last_export()
    if not asked:
        raise ArtifactError(
            "no model: name one, as FOLDER or ORG/NAME, or run one of\n"
            "  voxtral-onnx transcribe --model tiny AUDIO  # a small test model, here already\n"
            "  voxtral-onnx export  # downloads the released model, 8.9 GB"
        )
    if str(asked) == "tiny" and not Path(asked).is_dir():
        if not (TINY_ARTIFACT / FILE_NAME).exists():
            raise ArtifactError(
                "tiny: this checkout holds its checkpoint but not its artifact; run: make demo, "
                "or\n"
                "  voxtral-onnx export tiny -o tiny-onnx && voxtral-onnx transcribe --model "
                "tiny-onnx AUDIO"
            )
        return TINY_ARTIFACT
    folder = Path(asked)
    if isinstance(asked, str) and not _exists(folder):
        from ..hub import find_repository  # late: its imports take 0.3 s

        if repository := find_repository(asked):
            return _fetch(repository, precisions, offline, on_download)
    is_checkpoint = folder.suffix == ".gguf" or any(
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


def _exists(path: Path) -> bool:
    """Say whether there is such a file or folder.

    Raises:
        ArtifactError: the system does not say; the name is too long, or its folder closed.
    """
    try:
        return path.exists()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be looked at ({error.strerror or error})") from error


def open_artifact(
    folder: Path, precisions: Sequence[str] | None = None
) -> tuple[Manifest, list[str]]:
    """Read the manifest, choose precisions and compare the sizes of their files.

    Others need not be there.

    Raises:
        ArtifactError: no artifact, another format, or a file that is missing or of another size.
        UsageError: as `choose_precisions`.
    """
    manifest = Manifest.read(folder)
    chosen = choose_precisions(manifest, precisions)
    manifest.check_files(folder, chosen)
    return manifest, chosen


def choose_precisions(manifest: Manifest, asked: Sequence[str] | None = None) -> list[str]:
    """Return the precisions asked for, or the artifact's default one.

    `["all"]` asks for all; the default is the first of DEFAULT_PRECISIONS that the artifact has.

    Raises:
        UsageError: the artifact has not the one asked for.
        ArtifactError: it has none that is known.
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
    """Download what these precisions need of a published artifact, and its certificate.

    Returns its folder.
    """
    from .. import hub
    from ..download import RemoteFile

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
    if not snapshot.is_offline:  # artifacts run without; what was verified here is not overwritten
        new = [
            name for name in CERTIFICATE if name in snapshot.files and not (folder / name).exists()
        ]
        needed |= snapshot.within(dict.fromkeys(new, limits.CERTIFICATE), ArtifactError)
    snapshot.download(needed, folder, on_download)
    snapshot.remember()
    return folder


def downloaded_from(folder: Path) -> str | None:
    """Return ORG/NAME of the repository that a folder was downloaded from, or None."""
    from huggingface_hub import constants  # late: it takes 0.3 s

    home, place = Path(constants.HF_ASSETS_CACHE, "voxtral-onnx").resolve(), folder.resolve()
    if home not in place.parents:
        return None
    return place.relative_to(home).parts[0].replace("--", "/", 1)  # no name has two hyphens


def remember_export(folder: Path) -> None:
    """Make this artifact the one that run commands take when none is named.

    Raises:
        StorageError: the user's state folder cannot be written.
    """
    path = _state_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be made ({error.strerror or error})") from error
    atomic_write(path, json.dumps({"last_export": str(folder.resolve())}).encode())


def _last_export() -> str | None:
    """Return what was remembered, if anything; a name is no place of an export."""
    try:
        content = read_within(_state_file(), limits.STATE, ValueError)
        found = decode(_State, content, ValueError).last_export
    except (OSError, ValueError):
        return None
    return found if Path(found).is_absolute() else None


def _state_file() -> Path:
    return user_folder("state") / "state.json"


class _State(Struct):
    """`state.json`."""

    last_export: Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]+\Z")]
