"""Draw the progress of downloads, exports and checks on stderr, and measure that of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..escaping import one_line
from .terminal import format_time, stderr, styled

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from .. import hub
    from ..exporter.binding.bind import Progress as ExportedSoFar
    from ..runtime.audio.files import AudioSource


class StatusSpinner:
    """A spinner on stderr that names the current step."""

    def __enter__(self) -> StatusSpinner:
        is_utf = stderr.encoding.startswith("utf")
        self.status = stderr.status("", spinner="dots" if is_utf else "line")
        self.status.start()
        return self

    def show(self, message: str) -> None:
        """Show the next step."""
        self.status.update(styled(message))

    def __exit__(self, *error) -> None:
        self.status.stop()


class DownloadProgress:
    """A progress bar for each download that transfers something: file, bytes, rate, time left."""

    def __init__(self):
        self.bar = None

    def __enter__(self) -> DownloadProgress:
        return self

    def update(self, progress: hub.Progress) -> None:
        """Show the progress of a download."""
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
    """A progress bar for each graph: bytes, time, current tensor."""

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
        """Show the progress of the graphs that are written."""
        if progress.graphs not in self.tasks:
            names = ", ".join(Path(graph).stem for graph in progress.graphs)
            task = self.bar.add_task(one_line(names), total=None, tensor="tracing")
            self.tasks[progress.graphs] = task
        tensor = one_line(progress.tensor) if progress.done < progress.total else ""
        if progress.tensor:
            task = self.tasks[progress.graphs]
            self.bar.update(task, completed=progress.done, total=progress.total, tensor=tensor)

    def __exit__(self, *error) -> None:
        self.bar.stop()


class FilesProgress:
    """The progress through several files, measured in seconds of audio.

    The length of a file that is not opened yet is estimated from its size and its suffix: opened
    files with that suffix tell how many seconds a byte holds.
    """

    def __init__(self, paths: list[str], clock: Callable[[], float] = perf_counter):
        self.files, self.files_done, self.seconds_done = len(paths), 0, 0.0
        self.name, self.position, self.duration = "", 0.0, 0.0  # of the current file; in seconds
        self.start = 0.0  # where the work on the current file began, in seconds
        self.clock, self.began = clock, clock()
        self._sizes = [(Path(path).suffix.lower(), _size(path)) for path in paths]
        self._seconds: dict[int, float] = {}  # to transcribe, of opened files, by their number

    def know(self, number: int, seconds: float) -> None:
        """Record how many seconds of a file are to be transcribed; 0 if it has failed.

        Files are numbered from 1.
        """
        self._seconds[number] = seconds

    def begin(self, source: AudioSource, start: float = 0.0) -> None:
        """Make a file the current one, of which `start` seconds were transcribed earlier."""
        self.name, self.duration = Path(source.name).name, source.duration
        self.position = self.start = start

    def finish(self, seconds: float) -> None:
        """Count the current file as done, of which `seconds` were transcribed."""
        self.files_done, self.seconds_done = self.files_done + 1, self.seconds_done + seconds
        self.name, self.position, self.start, self.duration = "", 0.0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds of audio transcribed so far."""
        return self.seconds_done + max(0.0, min(self.position, self.duration) - self.start)

    @property
    def speed(self) -> float:
        """Return the seconds of audio transcribed per second."""
        return self.seconds / max(self.clock() - self.began, 1e-9)

    @property
    def total_seconds(self) -> float:
        """Return the seconds of audio in all files, estimated for those not opened yet."""
        known, sizes = dict[str, float](), dict[str, int]()  # by suffix
        for number, seconds in self._seconds.items():
            suffix, size = self._sizes[number - 1]
            known[suffix] = known.get(suffix, 0.0) + seconds
            sizes[suffix] = sizes.get(suffix, 0) + size
        overall = sum(known.values()) / max(1, sum(sizes.values()))
        left = sum(
            size * (known[suffix] / sizes[suffix] if sizes.get(suffix) else overall)
            for number, (suffix, size) in enumerate(self._sizes, 1)
            if number not in self._seconds
        )
        return max(self.seconds, sum(self._seconds.values()) + left)

    @property
    def total(self) -> str:
        """Return how much audio is transcribed and how fast, for people."""
        return f"{format_time(self.seconds)} of audio at {self.speed:.1f} times its speed"

    def line(self, columns: int, encoding: str = "utf-8") -> str:
        """Return a status line: bar, percentage, time left, position in the current file.

        Args:
            columns: of the terminal, at whose end the line is cut; what matters least stands last.
            encoding: of the terminal, which may lack the characters of the bar.
        """
        whole = self.total_seconds
        share = self.seconds / whole if whole else 0.0
        full, empty = "━─" if encoding.startswith("utf") else "#-"
        width = 20 if columns >= 80 else 10 if columns >= 40 else 0
        filled = int(share * width)
        parts = [f"{share:4.0%}"]
        if self.seconds:
            parts.append(f"{format_time((whole - self.seconds) / self.speed)} left")
        if self.files > 1:
            parts.append(f"{self.files_done} of {self.files} files")
        if self.name:
            position, duration = format_time(self.position), format_time(self.duration)
            parts.append(f"{position} of {duration} of {self.name}")
        bar = full * filled + empty * (width - filled)
        return f"{bar} {', '.join(parts)}".strip()


def _size(path: str) -> int:
    """Return a file's size in bytes; 0 if it has none, such as a pipe."""
    try:
        return os.stat(path).st_size  # noqa: PTH116, "-" is no file of this name
    except (OSError, ValueError):
        return 0
