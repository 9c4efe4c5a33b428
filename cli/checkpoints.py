"""Bring the checkpoint of an export: say what that takes, ask, download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DeviceError
from .plans import print_download
from .progress import DownloadProgress
from .terminal import confirm, stderr, stdout

EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "onnx_ir", "gguf", "safetensors")


def require_export_packages() -> None:
    """See that the packages of the extra `export` are there, and memory to import them.

    Raises:
        DeviceError: a package is missing.
        StorageError: too little memory.
    """
    from importlib.util import find_spec

    from ..exporter import memory

    if missing := [name for name in EXPORT_PACKAGES if find_spec(name) is None]:
        raise DeviceError(
            f"export needs {', '.join(missing)}; run:\n"
            "  pip install torch --index-url https://download.pytorch.org/whl/cpu"
            " && pip install 'voxtral-onnx[export]'"
        )
    memory.require_memory(memory.IMPORTS)


def fetch_checkpoint(
    source: str,
    output: Path | None,
    options: dict[str, Any],
    *,
    revision: str | None,
    offline: bool,
    dry_run: bool,
    asks: bool = False,
) -> tuple[str | Path, Path | None] | None:
    """Bring a checkpoint of the hub, saying what that takes.

    Args:
        source: what is to be exported; other sources than the hub's are left as they are.
        output: the artifact's folder, where it was named.
        options: of the export, for the size of the artifact.
        revision: of the repository.
        offline: take what was downloaded before.
        dry_run: download nothing.
        asks: ask before a download.

    Returns:
        Where it is and the artifact's folder, as far as known; None where a dry run ends here,
        because the weights are not here.
    """
    from ..exporter.checkpoint.remote import find_remote
    from ..exporter.plan import estimate_size

    with DownloadProgress() as download:
        remote = find_remote(
            source,
            revision,
            tokenizer=options["tokenizer"],
            offline=offline,
            on_progress=download.update,
        )
    if remote is None:
        return source, output
    output = output or remote.output
    size = estimate_size(remote.source, **options)
    print_download(remote, output, size, stdout if dry_run else stderr)
    remote.require_room(output, size)
    if dry_run and remote.num_bytes:
        return None
    if asks and remote.num_bytes:
        confirm(
            "Download it and export it?",
            "nothing is downloaded without being asked for: add --yes, or name a folder",
        )
    with DownloadProgress() as download:
        return remote.fetch(download.update), output
