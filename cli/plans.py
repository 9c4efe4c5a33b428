"""Print what an export, a download or a budget will take, before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import format_size, info, stderr, stdout, styled

if TYPE_CHECKING:
    from ..exporter.checkpoint.remote import RemoteCheckpoint
    from ..exporter.plan import ExportPlan
    from ..exporter.quantize import Budget, BudgetPlan
    from .terminal import Console


def print_plan(plan: ExportPlan) -> None:
    """Print the files of an export, and the disk, memory and time that it needs.

    Raises:
        StorageError: there is too little room for it.
    """
    from rich.table import Table

    from ..exporter.memory import PEAK

    table = Table("file", "size", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for file in plan.files:
        note = "reused" if file.is_reused else "" if file.is_exact else "about"
        table.add_row(file.name, format_size(file.size), note)
    stdout.print(styled((str(plan.folder), "bold")))
    stdout.print(table)
    stdout.print(
        f"disk: {format_size(plan.disk_needed)} needed, {format_size(plan.disk_free)} free; "
        f"memory: about {format_size(PEAK)}; time: about {plan.seconds:.0f} s with {plan.threads} "
        "threads"
    )
    plan.require_room()


def print_budget_plan(budget: BudgetPlan, num_bytes: int) -> None:
    """Print which sizes a budget can have, and the disk, memory and time that it needs."""
    from ..exporter.quantize import MEASURE_PEAK

    plan = budget.export
    sizes = (
        f": {format_size(num_bytes)} at most; {format_size(budget.minimum)} are the least, and "
        f"{format_size(budget.floats)} need no quantising"
    )
    stdout.print(styled((str(plan.folder), "bold"), sizes))
    stdout.print(
        f"disk: {format_size(num_bytes)} needed, {format_size(plan.disk_free)} free; memory: about "
        f"{format_size(MEASURE_PEAK)}; time: about {budget.seconds:.0f} s to measure and "
        f"{plan.seconds:.0f} s to export with {plan.threads} threads"
    )


def print_download(
    remote: RemoteCheckpoint, output: Path, artifact_size: int | None, console: Console
) -> None:
    """Print what an export from the hub downloads, and the disk and memory that it needs."""
    from ..exporter.memory import PEAK

    snapshot, download = remote.snapshot, format_size(remote.num_bytes)
    here = sum(file.size for file in remote.weights.values()) - remote.num_bytes
    disk = f"{download} in {remote.folder}"
    if artifact_size is not None:
        disk += f", about {format_size(artifact_size)} in {output}"
    what = f"{download} to download, {format_size(here)} here already"
    commit = f" at {snapshot.commit[:12]}: "
    console.print(styled((str(snapshot.repository), "bold"), commit, what))
    console.print(f"disk: {disk}; memory: about {format_size(PEAK)}")


def print_budget(budget: Budget) -> None:
    """Print on stderr what each group of tensors loses in 4 bits, and which bits it got."""
    from rich.table import Table

    columns = ("tensors", "4-bit drift", "margin", "flips", "chosen", "size", "drift")
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for part, option in zip(budget.sensitivities, budget.chosen, strict=True):
        table.add_row(
            part.group.name,
            f"{part.drift.total:.1e}",
            f"{part.drift.margin:.3f}",
            str(part.drift.flips),
            f"{option.bits} bits, {option.block_size}",
            format_size(option.size),
            f"{option.drift:.1e}",
        )
    stderr.print(table)
    info(
        f"{format_size(budget.size)} of {format_size(budget.num_bytes)}, drift {budget.drift:.1e} "
        f"nats; recipe: {budget.recipe}, everything measured: {budget.table}"
    )
