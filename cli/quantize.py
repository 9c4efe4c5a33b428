"""`voxtral-onnx quantize`: fewer bits, by a recipe or to a size."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
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
    budget: options.Budget = None,
    audio: options.CalibrationAudio = None,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    threads: options.Threads = None,
) -> None:
    """Quantise a model by a recipe or to a size; prints the new artifact's folder."""
    from .checkpoints import fetch_checkpoint, read_speech, require_export_packages
    from .plans import print_budget, print_budget_plan, print_plan
    from .progress import ExportProgress
    from .values import parse_size, split_names

    require_export_packages()
    from ..exporter.plan import plan_export
    from ..exporter.quantize import check_options, open_source, output_folder, plan_budget
    from ..exporter.quantize import quantize as run_quantize

    if audio and budget is None:
        raise UsageError("--audio calibrates a --budget; without one nothing is measured")
    names, num_bytes = split_names(precision), None if budget is None else parse_size(budget)
    check_options(names, recipe, num_bytes)
    size = parse_size(shard_size)
    settings: dict[str, Any] = {"precisions": names, "recipe": recipe, "shard_size": size}
    found = fetch_checkpoint(
        source,
        output,
        {"tokenizer": tokenizer, **settings},
        revision=revision,
        offline=offline,
        dry_run=dry_run,
        artifact_size=num_bytes,
    )
    if found is None:
        return
    checkpoint = open_source(found[0], tokenizer)
    folder = output_folder(checkpoint, found[1])
    info(f"{checkpoint.source}: {checkpoint.layout}")
    if dry_run and num_bytes is not None:
        plan = plan_budget(checkpoint, folder, names[0], num_bytes, threads)
        print_budget_plan(plan, num_bytes)
        return
    if dry_run:
        print_plan(plan_export(checkpoint, folder, **settings, threads=threads))
        return

    tables: list[Any] = []
    speech = read_speech(audio, checkpoint.config.audio.sample_rate) if audio else None
    settings |= {"budget": num_bytes, "recordings": speech, "threads": threads}
    with ExportProgress() as bar:
        callbacks = {"on_progress": bar.update, "on_stage": bar.measure, "on_budget": tables.append}
        run_quantize(checkpoint, folder, **settings, **callbacks)
    for table in tables:
        print_budget(table)
    if as_json:
        measured = tables[0].read_table() if tables else {}
        write_json({"folder": str(folder), **measured})
    else:
        write_path(folder)
