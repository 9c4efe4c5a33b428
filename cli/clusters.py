"""Name what runs on machines of a cluster: what to install, a device, a model."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError

DEVICES = ("auto", "cpu", "cuda")


def to_install(*extras: str) -> str:
    """Return what to tell pip for some extras, on machines of either kind."""
    names = ",".join(extras)
    return f"'voxtral-onnx[{names},cpu]', or [{names},gpu] on machines with CUDA"


def check_device(name: str) -> None:
    """Refuse the name of a device that Ray does not hand out.

    Raises:
        UsageError: it is one of a machine's own.
    """
    if name not in DEVICES:
        raise UsageError(
            f"--device {name}: with --engine ray expected one of {', '.join(DEVICES)}; Ray gives "
            "each process a device of its own"
        )


def model_elsewhere(model: str | None) -> str:
    """Return the name of a model as other machines find it: the whole path of a folder.

    Raises:
        ArtifactError: none is named, or the last export is gone.
    """
    from ..runtime.locate import ENVIRONMENT_VARIABLE, find_artifact

    found = model or os.environ.get(ENVIRONMENT_VARIABLE) or str(find_artifact())
    return str(Path(found).absolute()) if Path(found).is_dir() else found
