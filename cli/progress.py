"""Draw the progress of downloads, exports and checks on stderr, and measure that of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Self

from rich.text import Text

from ..escaping import one_line
from .terminal import fit, format_size, format_time, info, stderr, styled

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


class BytesProgress:
    """A progress bar over a number of bytes that is known from the start.

    It has one line, of which a narrow terminal shows less: first goes what it works on, then the
    rate, the bytes, and the bar.
    """

    is_even = True  # whether bytes pass evenly, so that the last seconds tell the rate

    def __init__(self) -> None:
        self.bar: RichProgress | None = None

    def __enter__(self) -> Self:
        return self

    def show(self, what: str, done: int, total: int) -> None:
        """Show how many bytes are done, and what is worked on."""
        self.bar = self.bar or _start(total, is_even=self.is_even)
        task = self.bar.task_ids[0]
        self.bar.update(task, description=one_line(what), completed=done, total=total)

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = None


class DownloadProgress(BytesProgress):
    """A progress bar for each download that transfers something: file, bytes, rate, time left."""

    def update(self, progress: hub.Progress) -> None:
        """Show the progress of a download."""
        what = Path(progress.file).name or "waiting for another download of the same"
        if progress.wait:
            what = f"connection lost, again in {progress.wait:.0f} s"
        self.show(what, progress.done, progress.total)
        if progress.done == progress.total:
            self.__exit__()


class ExportProgress(BytesProgress):
    """A progress bar for a whole export: bytes of the checkpoint, rate, time left.

    Where stderr is no terminal, it is a line for each pass over some graphs.
    """

    is_even = False  # graphs are made and files hashed in between

    def __init__(self) -> None:
        super().__init__()
        self._began, self._done = perf_counter(), 0

    def update(self, progress: ExportedSoFar) -> None:
        """Show the progress of the graphs that are written."""
        names = ", ".join(Path(graph).stem for graph in progress.graphs)
        what = {"graphs": "making the graph", "hashes": "flushing and hashing"}.get(progress.step)
        if stderr.is_terminal:
            is_last = progress.step == "hashes" and progress.done >= progress.total
            text = names if is_last else f"{names}: {progress.tensor or what}"  # this one stays
            self.show(text, progress.done, progress.total)
        elif progress.step == "hashes":
            seconds, size = perf_counter() - self._began, progress.done - self._done
            weights = f"{format_size(size)} of weights" if size else "no further weights"
            info(f"{names}: {weights} in {seconds:.0f} s")
            self._began, self._done = perf_counter(), progress.done


def bytes_line(
    what: str, done: int, total: int, *, rate: float | None, left: float | None, columns: int
) -> str:
    """Return a line with a bar over some bytes, as wide as the terminal at most.

    Args:
        what: is worked on.
        done: bytes of the total.
        total: number of bytes.
        rate: bytes a second, None where it is not known yet.
        left: seconds, likewise.
        columns: of the terminal.
    """
    full, empty = "━─" if stderr.encoding.startswith("utf") else "#-"
    share = done / total if total else 1.0
    width = 20 if columns >= 100 else 12 if columns >= 40 else 0
    filled = int(share * width)
    size = format_size(total)
    here = format_size(done)
    here = here.split()[0] if here.split()[1] == size.split()[1] else here
    parts = [full * filled + empty * (width - filled)] if width else []
    parts.append(f"{int(100 * share):3} %")
    if columns >= 36:
        parts.append(f"{here} of {size}")
    if rate and columns >= 60:
        parts.append(f"{format_size(int(rate))}/s")
    if left is not None and done < total:
        parts.append(f"{format_time(left)} left")
    return fit("  ".join([*parts, what]), columns)


def _start(total: int, *, is_even: bool) -> RichProgress:
    """Start a bar of one line, whose content depends on how wide the terminal is now.

    Args:
        total: number of bytes.
        is_even: tell the rate by the last seconds, not by all.
    """
    from rich import progress as rich

    class Line(rich.ProgressColumn):
        def render(self, task: rich.Task) -> Text:
            done, total = int(task.completed), int(task.total or 0)
            mean = done / task.elapsed if task.elapsed else None
            rate = (task.finished_speed or task.speed) if is_even else mean
            left = (total - done) / rate if rate else None
            facts = {"rate": rate, "left": left, "columns": stderr.width - 1}
            line = bytes_line(task.description, done, total, **facts)
            return Text(line, no_wrap=True, overflow="crop")

    bar = rich.Progress(Line(), console=stderr)
    bar.add_task("", total=total)
    bar.start()
    return bar


@dataclass
class _InWork:
    """A file that has begun; in seconds of its audio."""

    name: str
    start: float  # transcribed earlier
    duration: float
    position: float


class FilesProgress:
    """The progress through several files, measured in seconds of audio.

    The length of a file that is not opened yet is estimated from its size and its suffix: opened
    files with that suffix tell how many seconds a byte holds. Files are numbered from 1. One thread
    counts; another may draw.
    """

    def __init__(self, paths: list[str], clock: Callable[[], float] = perf_counter):
        self.files, self.files_done = len(paths), 0
        self.seconds = 0.0  # transcribed so far
        self.clock, self.began = clock, clock()
        self._sizes = [(Path(path).suffix.lower(), _size(path)) for path in paths]
        self._known: dict[int, float] = {}  # seconds to transcribe, of opened files
        self._in_work: dict[int, _InWork] = {}
        # Seconds and bytes of opened files, and bytes of the others, by suffix
        self._seconds = {suffix: 0.0 for suffix, _ in self._sizes}
        self._bytes = dict.fromkeys(self._seconds, 0)
        self._bytes_left = dict.fromkeys(self._seconds, 0)
        for suffix, size in self._sizes:
            self._bytes_left[suffix] += size

    def start(self) -> None:
        """Start the clock, when the model is loaded."""
        self.began = self.clock()

    def begin(self, number: int, source: AudioSource, start: float = 0.0) -> None:
        """Begin an opened file, of which `start` seconds were transcribed earlier."""
        name, duration = Path(source.name).name, source.duration
        self._know(number, max(0.0, duration - start))
        self._in_work[number] = _InWork(name, start, duration, start)

    def reach(self, number: int, position: float) -> None:
        """Record how many seconds of a file are transcribed, earlier ones included."""
        file = self._in_work[number]
        position = max(file.position, min(position, file.duration))
        self.seconds += position - file.position
        file.position = position

    def finish(self, number: int) -> None:
        """Count a file as done."""
        self.reach(number, self._in_work[number].duration)
        del self._in_work[number]
        self.files_done += 1

    def fail(self, number: int) -> None:
        """Count nothing of a file."""
        if file := self._in_work.pop(number, None):
            self.seconds -= file.position - file.start
        self._know(number, 0.0)

    def _know(self, number: int, seconds: float) -> None:
        """Record how many seconds of a file are to be transcribed; 0 if it has failed."""
        suffix, size = self._sizes[number - 1]
        if number not in self._known:
            self._bytes_left[suffix] -= size
            self._bytes[suffix] += size
        self._seconds[suffix] += seconds - self._known.get(number, 0.0)
        self._known[number] = seconds

    @property
    def speed(self) -> float:
        """Return the seconds of audio transcribed per second."""
        return self.seconds / max(self.clock() - self.began, 1e-9)

    @property
    def total_seconds(self) -> float:
        """Return the seconds of audio in all files, estimated for those not opened yet."""
        seconds, sizes = sum(self._seconds.values()), sum(self._bytes.values())
        overall = seconds / max(1, sizes)
        left = sum(
            size * (self._seconds[suffix] / self._bytes[suffix] if self._bytes[suffix] else overall)
            for suffix, size in self._bytes_left.items()
        )
        return max(self.seconds, seconds + left)

    @property
    def total(self) -> str:
        """Return how much audio is transcribed and how fast, for people."""
        return f"{format_time(self.seconds)} of audio at {self.speed:.1f} times its speed"

    def line(self, columns: int, encoding: str = "utf-8") -> str:
        """Return a status line: bar, percentage, time left, files, speed, place in the only file.

        Args:
            columns: of the terminal, at whose end the line is cut; what matters least stands last.
            encoding: of the terminal, which may lack the characters of the bar.
        """
        whole = self.total_seconds
        share = self.seconds / whole if whole else 0.0
        parts = [f"{share:4.0%}"]
        if self.seconds:
            parts.append(f"{format_time((whole - self.seconds) / self.speed)} left")
        if self.files > 1:
            parts.append(f"{self.files_done} of {self.files} files")
        if len(in_work := list(self._in_work.values())) == 1:
            position, duration = map(format_time, (in_work[0].position, in_work[0].duration))
            parts.append(f"{position} of {duration} of {in_work[0].name}")
        if self.seconds and in_work:
            parts.append(f"{self.speed:.1f}x real time")
        return progress_line(share, parts, columns, encoding)


def progress_line(share: float, parts: list[str], columns: int, encoding: str) -> str:
    """Return a status line: a bar that is filled to a share, as far as there is room, and parts."""
    full, empty = "━─" if encoding.startswith("utf") else "#-"
    width = 20 if columns >= 80 else 10 if columns >= 60 else 6 if columns >= 40 else 0
    filled = int(share * width)
    bar = full * filled + empty * (width - filled)
    return f"{bar} {', '.join(parts)}".strip()


def _size(path: str) -> int:
    """Return a file's size in bytes; 0 if it has none, such as a pipe."""
    try:
        return os.stat(path).st_size  # noqa: PTH116, "-" is no file of this name
    except (OSError, ValueError):
        return 0
