"""Download the checkpoint that an export needs, after printing the cost and asking the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DeviceError
from .plans import print_download
from .progress import DownloadProgress
from .terminal import confirm, stderr, stdout

INSTALL_EXPORT = "  pip install 'voxtral-onnx[cpu,export]'"
EXPORT_PACKAGES = ("onnx", "onnx_ir", "gguf", "safetensors")


def require_export_packages() -> None:
    """Require the packages of the extra `export`, and the memory that importing them takes.

    Raises:
        DeviceError: a package is missing.
        StorageError: too little memory.
    """
    from importlib.util import find_spec

    from ..exporter import memory

    if missing := [name for name in EXPORT_PACKAGES if find_spec(name) is None]:
        raise DeviceError(f"export needs {', '.join(missing)}; run:\n{INSTALL_EXPORT}")
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
    """Download a checkpoint of the hub, after printing what the export will need.

    Args:
        source: the model to export; a source that is not on the hub is returned unchanged.
        output: the artifact's folder; None to name it after the source.
        options: options of the export, from which the artifact's size is estimated.
        revision: branch, tag or commit of the hub's repository.
        offline: use only files that were downloaded before.
        dry_run: download nothing.
        asks: ask the user before a download.

    Returns:
        The checkpoint's place and the artifact's folder, as far as known; None if a dry run ends
        here, because weights are not downloaded yet.

    Raises:
        StorageError: too little disk space, or the download fails.
        UsageError: a download is to be confirmed, and there is no terminal.
    """
    from ..exporter.checkpoint.remote import find_remote
    from ..exporter.plan import estimate_size

    # Look up the repository's files
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

    # Print the cost
    output = output or remote.output
    size = estimate_size(remote.source, **options)
    print_download(remote, output, size, stdout if dry_run else stderr)
    remote.require_room(output, size)
    if dry_run and remote.num_bytes:
        return None

    # Ask, and download
    if asks and remote.num_bytes:
        confirm(
            "Download it and export it?",
            "nothing is downloaded without being asked for: add --yes, or name a folder",
        )
    with DownloadProgress() as download:
        return remote.fetch(download.update), output
