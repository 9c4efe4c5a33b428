"""Print the disk, memory and time that an export or a download needs, before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import format_size, stdout, styled

if TYPE_CHECKING:
    from ..exporter.checkpoint.remote import RemoteCheckpoint
    from ..exporter.plan import Estimate, ExportPlan
    from .terminal import Console


def print_plan(plan: ExportPlan) -> None:
    """Print the files of an export, where graphs come from, and the disk, memory and time needed.

    Raises:
        StorageError: there is too little room for it.
    """
    from rich.table import Table

    from ..exporter.export import already_there
    from ..exporter.memory import peak_of
    from ..exporter.packages import INSTALL_TRACE, TRACE, missing

    # Print the files
    table = Table("file", "size", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    graphs = {graph.plan.graph_file for graph in plan.graphs}
    for file in plan.files:
        source = "traced" if file.name in plan.traced else "shipped" if file.name in graphs else ""
        note = "reused" if file.is_reused else source if file.is_exact else f"about, {source}"
        table.add_row(file.name, format_size(file.size), note)
    stdout.print(styled((str(plan.folder), "bold")))
    stdout.print(table)

    # Print what is special, and what is needed
    for note in (*plan.checkpoint.notes, *plan.replaced):
        stdout.print(styled(note))
    if plan.is_there:
        stdout.print(styled(already_there(plan)))
    elif plan.traced and (lost := missing(TRACE)):
        needed = f"missing for the traced graphs: {', '.join(lost)}; run:\n{INSTALL_TRACE}"
        stdout.print(styled(needed))
    stdout.print(
        f"disk: {format_size(plan.disk_needed)} needed, {format_size(plan.disk_free)} free; "
        f"memory: about {format_size(peak_of(plan.traced))}; time: about {plan.seconds:.0f} s with "
        f"{plan.threads} threads"
    )
    plan.require_room()


def print_download(
    remote: RemoteCheckpoint, output: Path, needs: Estimate | None, console: Console
) -> None:
    """Print what an export from the hub downloads, and the disk and memory that it needs."""
    from ..exporter.memory import peak_of

    peak = peak_of(needs.traced if needs else ())
    snapshot, download = remote.snapshot, format_size(remote.num_bytes)
    here = sum(file.size for file in remote.weights.values()) - remote.num_bytes
    disk = f"{download} in {remote.folder}"
    if needs:
        disk += f", about {format_size(needs.num_bytes)} in {output}"
    what = f"{download} to download, {format_size(here)} here already"
    commit = f" at {snapshot.commit[:12]}: "
    console.print(styled((str(snapshot.repository), "bold"), commit, what))
    if remote.lender is not None:
        console.print(f"tokenizer: from {remote.lender}; the repository has none")
    console.print(f"disk: {disk}; memory: about {format_size(peak)}")
