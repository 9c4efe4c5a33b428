"""Finding the artifact that a user means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs

from ..errors import ArtifactError, StorageError
from ..manifest import FILE_NAME, Manifest, write_whole

ENVIRONMENT_VARIABLE = "VOXTRAL_ONNX_MODEL"
EMBEDDED = Path(__file__).parent.parent / "assets" / "tiny-onnx"


def find_artifact(model: str | Path | None = None) -> Path:
    """The folder of the artifact: `model`, else $VOXTRAL_ONNX_MODEL, else the last finished export.

    Raises:
        ArtifactError: nothing was named or exported, or what was named is not an artifact.
    """
    asked = model or os.environ.get(ENVIRONMENT_VARIABLE) or _last_export()
    if not asked:
        raise ArtifactError(
            "no model: give --model FOLDER, or export one first:\n"
            "  voxtral-onnx export tiny\n"
            "  voxtral-onnx export CHECKPOINT_FOLDER"
        )
    if str(asked) == "tiny" and not Path(asked).exists():
        if not (EMBEDDED / FILE_NAME).exists():
            raise ArtifactError(
                "tiny: this checkout holds its checkpoint but not its artifact; run: make demo, or\n"
                "  voxtral-onnx export tiny -o tiny-onnx && voxtral-onnx transcribe --model tiny-onnx AUDIO"
            )
        return EMBEDDED
    folder = Path(asked)
    is_checkpoint = folder.suffix == ".gguf" or any(
        (folder / name).exists() for name in ("params.json", "consolidated.safetensors", "config.json")
    )
    if is_checkpoint and not (folder / FILE_NAME).exists():
        raise ArtifactError(f"{folder}: a checkpoint, not an artifact; run: voxtral-onnx export {folder}")
    if not folder.exists():
        raise ArtifactError(f"{folder}: no such folder; export a model first: voxtral-onnx export SOURCE")
    return folder


def open_artifact(folder: Path) -> Manifest:
    """Read the manifest and compare the sizes of all files.

    Raises:
        ArtifactError: no artifact, another format, or a file that is missing or of another size.
    """
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    return manifest


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
    write_whole(path, json.dumps({"last_export": str(folder.resolve())}).encode())


def _last_export() -> str | None:
    try:
        return json.loads(_state_file().read_text())["last_export"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state_file() -> Path:
    return platformdirs.user_state_path("voxtral-onnx") / "state.json"
