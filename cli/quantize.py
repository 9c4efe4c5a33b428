"""The command `voxtral-onnx quantize`, which quantises a model by a recipe."""

from __future__ import annotations

from typing import Any

from . import options
from .terminal import info, write_json, write_path


def quantize(
    source: options.QuantizeSource,
    output: options.ArtifactFolder = None,
    precision: options.QuantizedPrecisions = "q4f16",
    shard_size: options.ShardSize = "512MiB",
    dry_run: options.ExportDryRun = False,
    as_json: options.Json = False,
    recipe: options.Recipe = None,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    threads: options.Threads = None,
) -> None:
    """Quantise a model by a recipe; print the new artifact's folder."""
    from .checkpoints import fetch_checkpoint, require_export_packages
    from .plans import print_plan
    from .progress import ExportProgress
    from .values import parse_size, split_names

    require_export_packages("quantize")
    from ..exporter.export import run
    from ..exporter.plan import plan_export
    from ..exporter.quantize import check_precisions, open_source, output_folder

    # Find the source, a checkpoint or an artifact
    names = split_names(precision)
    check_precisions(names)
    size = parse_size(shard_size)
    settings: dict[str, Any] = {"precisions": names, "recipe": recipe, "shard_size": size}
    found = fetch_checkpoint(
        source,
        output,
        {"tokenizer": tokenizer, **settings},
        revision=revision,
        offline=offline,
        dry_run=dry_run,
    )
    if found is None:
        return
    checkpoint = open_source(found[0], tokenizer)
    folder = output_folder(checkpoint, found[1])
    info(f"{checkpoint.source}: {checkpoint.layout}")
    plan = plan_export(checkpoint, folder, **settings, threads=threads)
    if dry_run:
        print_plan(plan)
        return

    # Quantise
    with ExportProgress() as bar:
        run(plan, on_progress=bar.update, on_note=info)
    if as_json:
        write_json({"folder": str(folder)})
    else:
        write_path(folder)
