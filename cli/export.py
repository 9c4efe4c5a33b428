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
    trace: options.Trace = False,
) -> None:
    """Export a model to ONNX: a folder of graphs and weights, called the artifact; print its path.

    Run it again to continue an export that was interrupted.
    """
    from .checkpoints import fetch_checkpoint, require_export_packages
    from .offers import choose_source
    from .plans import print_plan
    from .progress import ExportProgress
    from .tables import next_step, written_line
    from .values import parse_size, split_names

    require_export_packages("export")
    from ..exporter.binding.source_report import summaries
    from ..exporter.export import run
    from ..exporter.plan import plan_export
    from ..runtime.locate import remember_export

    settings: dict[str, Any] = {"tokenizer": tokenizer, "recipe": recipe}
    settings |= {"precisions": split_names(precision), "families": split_names(family)}
    settings |= {"shard_size": parse_size(shard_size)}
    found = fetch_checkpoint(
        source or choose_source(yes=yes, asks=not dry_run, offline=offline),
        output,
        settings,
        revision=revision,
        offline=offline,
        dry_run=dry_run,
        trace=trace,
    )
    if found is None:
        return
    plan = plan_export(found[0], found[1], **settings, threads=threads, trace=trace)
    if dry_run:
        print_plan(plan)
        return

    # Export, remember the artifact, report
    began, is_there = perf_counter(), plan.is_there
    with ExportProgress() as bar:
        folder = run(plan, on_progress=bar.update, on_note=info)
    try:
        remember_export(folder)
    except StorageError as error:
        info(f"note: not remembered as the last export: {error}")
    if not is_there:
        for note in summaries(folder):
            info(note)
        info(written_line(folder, perf_counter() - began))
    write_path(folder)
    info(next_step(folder))
