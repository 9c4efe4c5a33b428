"""Draw on stderr how downloads, exports and checks go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..escaping import one_line
from .terminal import stderr, styled

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from .. import hub
    from ..exporter.binding.bind import Progress as ExportedSoFar


class StatusSpinner:
    """Shows what is being checked."""

    def __enter__(self) -> StatusSpinner:
        self.status = stderr.status("")
        self.status.start()
        return self

    def show(self, message: str) -> None:
        """Turn to the next step."""
        self.status.update(styled(message))

    def __exit__(self, *error) -> None:
        self.status.stop()


class DownloadProgress:
    """Shows a bar for every download that has something to bring: file, bytes, rate, time left."""

    def __init__(self):
        self.bar = None

    def __enter__(self) -> DownloadProgress:
        return self

    def update(self, progress: hub.Progress) -> None:
        """Show how far a download is."""
        self.bar = self.bar or self._start()
        what = Path(progress.file).name or "waiting for another download of the same"
        if progress.wait:
            what = f"connection lost, again in {progress.wait:.0f} s"
        task = self.bar.task_ids[0]
        self.bar.update(
            task, description=one_line(what), completed=progress.done, total=progress.total
        )
        if progress.done == progress.total:
            self.__exit__()

    def _start(self) -> RichProgress:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(24),
            rich.DownloadColumn(),
            rich.TransferSpeedColumn(),
            rich.TimeRemainingColumn(),
        )
        bar = rich.Progress(*columns, console=stderr)
        bar.add_task("")
        bar.start()
        return bar

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = None


class ExportProgress:
    """Shows a bar for each graph: its tensor and bytes."""

    def __enter__(self) -> ExportProgress:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(24),
            rich.DownloadColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("{task.fields[tensor]}", markup=False),
        )
        self.bar = rich.Progress(*columns, console=stderr)
        self.bar.start()
        self.tasks = {}
        return self

    def update(self, progress: ExportedSoFar) -> None:
        """Show how far the graphs are."""
        if progress.graphs not in self.tasks:
            names = ", ".join(Path(graph).stem for graph in progress.graphs)
            task = self.bar.add_task(one_line(names), total=None, tensor="tracing")
            self.tasks[progress.graphs] = task
        tensor = one_line(progress.tensor) if progress.done < progress.total else ""
        if progress.tensor:
            task = self.tasks[progress.graphs]
            self.bar.update(task, completed=progress.done, total=progress.total, tensor=tensor)

    def measure(self, stage: str) -> None:
        """Name the part of the model that is being measured."""
        if "" not in self.tasks:
            self.tasks[""] = self.bar.add_task("measuring", total=None, tensor="")
        self.bar.update(self.tasks[""], tensor=stage)

    def __exit__(self, *error) -> None:
        self.bar.stop()
