"""Download the checkpoint that an export needs, after printing the cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .plans import print_download
from .progress import DownloadProgress
from .terminal import stderr, stdout


def require_export_packages(command: str) -> None:
    """Require the packages that a command needs, and the memory that importing them takes.

    Args:
        command: the one that was run, for the message.

    Raises:
        DeviceError: a package is missing.
        StorageError: too little memory.
    """
    from ..exporter import memory
    from ..exporter.packages import require_packages

    require_packages(command)
    memory.require_memory(memory.IMPORTS, what="an export" if command == "export" else command)


def fetch_checkpoint(
    source: str,
    output: Path | None,
    options: dict[str, Any],
    *,
    revision: str | None,
    offline: bool,
    dry_run: bool,
    trace: bool = False,
) -> tuple[str | Path, Path | None] | None:
    """Download a checkpoint of the hub, after printing what the export will need.

    Args:
        source: the model to export; a source that is not on the hub is returned unchanged.
        output: the artifact's folder; None to name it after the source.
        options: options of the export, from which the artifact's size is estimated.
        revision: branch, tag or commit of the hub's repository.
        offline: use only files that were downloaded before.
        dry_run: download nothing.
        trace: whether graphs are to be traced that are shipped, too.

    Returns:
        The checkpoint's place and the artifact's folder, as far as known; None if a dry run ends
        here, because weights are not downloaded yet.

    Raises:
        StorageError: too little disk space, or the download fails.
        DeviceError: graphs must be traced, and the packages for that are missing.
    """
    from ..exporter.checkpoint.remote import find_remote
    from ..exporter.packages import require_tracer
    from ..exporter.plan import estimate

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
    needs = estimate(remote.source, **options, trace=trace)
    print_download(remote, output, needs, stdout if dry_run else stderr)
    require_tracer(needs.traced if needs else ())
    remote.require_room(output, needs.num_bytes if needs else None)
    if dry_run and remote.num_bytes:
        return None

    # Download
    with DownloadProgress() as download:
        return remote.fetch(download.update), output
