"""The command `voxtral-onnx export`, which turns a checkpoint into an artifact."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ..errors import StorageError
from . import options
from .terminal import info, write_path


def export(
    source: options.Source = None,
    output: options.ArtifactFolder = None,
    precision: options.Precisions = "q4f16",
    family: options.Families = "native",
    shard_size: options.ShardSize = "512MiB",
    dry_run: options.ExportDryRun = False,
    recipe: options.Recipe = None,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    yes: options.YesDownload = False,
    threads: options.Threads = None,
) -> None:
    """Export a model to ONNX: a folder of graphs and weights, called the artifact; print its path.

    Run it again to continue an export that was interrupted.
    """
    from .checkpoints import fetch_checkpoint, require_export_packages
    from .plans import print_plan
    from .progress import ExportProgress
    from .tables import next_step, written_line
    from .values import parse_size, split_names

    require_export_packages()
    from ..exporter.binding.source_report import summaries
    from ..exporter.checkpoint.remote import DEFAULT_SOURCE
    from ..exporter.export import export as run_export
    from ..exporter.plan import plan_export
    from ..runtime.locate import remember_export

    settings: dict[str, Any] = {
        "tokenizer": tokenizer,
        "precisions": split_names(precision),
        "families": split_names(family),
        "recipe": recipe,
        "shard_size": parse_size(shard_size),
    }
    found = fetch_checkpoint(
        *(source or DEFAULT_SOURCE, output, settings),
        revision=revision,
        offline=offline,
        dry_run=dry_run,
        asks=source is None and not yes,
    )
    if found is None:
        return
    place, output = found
    if dry_run:
        print_plan(plan_export(place, output, **settings, threads=threads))
        return

    # Export, remember the artifact for other commands, report
    began = perf_counter()
    with ExportProgress() as bar:
        calls = {"on_progress": bar.update, "on_note": info}
        folder = run_export(place, output, **settings, threads=threads, **calls)
    try:
        remember_export(folder)
    except StorageError as error:
        info(f"note: not remembered as the last export: {error}")
    for note in summaries(folder):
        info(note)
    info(written_line(folder, perf_counter() - began))
    write_path(folder)
    info(next_step(folder))
