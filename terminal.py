"""What a terminal shows.

Results on stdout, and on stderr errors, notes and how the work goes on.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Self

import typer
from rich.console import Console
from rich.markup import escape

from .errors import StorageError, VoxtralOnnxError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from . import hub
    from .exporter.binding.bind import Progress as ExportedSoFar
    from .runtime.audio.files import AudioSource
    from .runtime.audio.microphone import Microphone
    from .runtime.live import Meter

NO_READER = 141  # exit code: what a shell reports for a closed pipe
WORD_COLUMN = 70  # of a terminal, behind which a live line is broken at the next space

stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def write(text: str) -> None:
    """Results to stdout at once; a reader that left ends the process quietly."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # or the interpreter fails again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(NO_READER) from None
        raise StorageError(
            f"standard output: cannot be written ({error.strerror or error})"
        ) from error


def say(message: str) -> None:
    """A line on stderr."""
    stderr.print(escape(message))


def print_error(error: VoxtralOnnxError) -> None:
    """What went wrong, on stderr."""
    stderr.print(f"[bold red]error:[/] {escape(str(error))}")


def format_time(seconds: float) -> str:
    """Seconds for people: 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes > 59 else f"{minutes}:{rest:02}"
    )


def format_size(num_bytes: int) -> str:
    """Bytes for people: 8.2 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{1 if num_bytes < 100 * size else 0}f} {unit}"
    return f"{num_bytes} B"


class WordPrinter:
    """Text on stdout as it comes, without the space that the first word begins with."""

    def __init__(self):
        self.begun = False

    def show(self, text: str) -> None:
        """Write the next piece."""
        if text and not self.begun:
            self.begun = True
            text = text.removeprefix(" ")
        if text:
            write(text)


class LiveScreen:
    """Words on stdout, and below them, where stderr is a terminal, how the work goes on."""

    def __init__(self, meter: Meter | FilesMeter):
        self.meter, self.words = meter, WordPrinter()
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.column = 0  # of the cursor, where both are one terminal
        self.shares = sys.stdout.isatty() and stderr.is_terminal

    def __enter__(self) -> Self:
        if stderr.is_terminal:
            self.drawing = threading.Thread(target=self._draw, daemon=True)
            self.drawing.start()
        return self

    def __exit__(self, *error) -> None:
        if stderr.is_terminal:
            self.ended.set()
            self.drawing.join()
            self._status("")

    def show(self, text: str) -> None:
        """Add to the words; lines are broken by us, because the line below them must be known."""
        from .runtime.text.captions import columns

        if not self.shares:
            self.words.show(text)
            return
        with self.lock:
            for character in text:
                if self.column + columns(character) >= stderr.width or (
                    character == " " and self.column > WORD_COLUMN
                ):
                    write("\x1b[K\n\x1b[K")
                    self.column = 0
                if not (self.column == 0 and character == " "):
                    write(character)
                    self.column += columns(character)

    def say(self, message: str | VoxtralOnnxError) -> None:
        """A line of its own on stderr."""
        with self.lock:
            self._clear()
            say(message) if isinstance(message, str) else print_error(message)

    def write(self, text: str) -> None:
        """Whole lines on stdout."""
        with self.lock:
            self._clear()
            write(text)

    def end(self, text: str) -> None:
        """The last words, of a file or of all; those of the next one begin a line."""
        self.show(text)
        with self.lock:
            write("\x1b[J\n" if self.shares else "\n")
            self.column, self.words = 0, WordPrinter()

    def _clear(self) -> None:
        """Begin a line, and take away what tells how the work goes on."""
        if self.shares:
            write("\n" * bool(self.column) + "\x1b[J")
            self.column = 0
        elif stderr.is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _draw(self) -> None:
        levels = " ▁▂▃▄▅▆▇█"
        while not self.ended.wait(0.25):
            level = levels[min(len(levels) - 1, int(self.meter.level * len(levels)))]
            self._status(f"{level} {self.meter}")

    def _status(self, line: str) -> None:
        line = line[: stderr.width - 1]
        with self.lock:
            below, above = ("\n", f"\x1b[A\x1b[{self.column + 1}G") if self.shares else ("", "\r")
            sys.stderr.write(f"{below}\r\x1b[2m{line}\x1b[m\x1b[K{above}")
            sys.stderr.flush()


class FilesMeter:
    """How far several files have come."""

    def __init__(self, files: int):
        self.files, self.files_done, self.seconds_done = files, 0, 0.0
        self.name, self.position, self.duration = "", 0.0, 0.0  # of the file at hand; seconds
        self.began = perf_counter()

    @property
    def level(self) -> float:
        """The share of the file at hand that is done."""
        return self.position / self.duration if self.duration else 0.0

    @property
    def total(self) -> str:
        """Of all files."""
        seconds = self.seconds_done + min(self.position, self.duration)
        speed = seconds / max(perf_counter() - self.began, 1e-9)
        return f"{format_time(seconds)} of audio at {speed:.1f} times its speed"

    def begin(self, source: AudioSource) -> None:
        """Turn to the next file."""
        self.name, self.position, self.duration = Path(source.name).name, 0.0, source.duration

    def finish(self, source: AudioSource) -> None:
        """Count a file as done."""
        self.files_done = self.files_done + 1
        self.seconds_done = self.seconds_done + source.duration
        self.name, self.position, self.duration = "", 0.0, 0.0

    def __str__(self) -> str:
        here = (
            f"{format_time(self.position)} of {format_time(self.duration)} of {self.name}"
            if self.name
            else ""
        )
        several = f"{self.files_done} of {self.files} files" if self.files > 1 else ""
        return ", ".join(filter(None, (here, several, self.total)))


class FilesScreen(LiveScreen):
    """The screen of several files."""

    def __init__(self, number: int):
        self.files = FilesMeter(number)
        super().__init__(self.files)


class PauseKey:
    """Space or p on a terminal pauses a microphone, and lets it go on."""

    def __init__(self, microphone: Microphone | None, screen: LiveScreen, meter: Meter):
        self.microphone, self.screen, self.meter = microphone, screen, meter
        self.terminal: int | None = None

    def __enter__(self) -> None:
        try:
            import termios
            import tty
        except ImportError:  # Windows
            return
        if self.microphone is None or not sys.stdin.isatty():
            return
        self.terminal = terminal = sys.stdin.fileno()
        self.settings = termios.tcgetattr(terminal)
        tty.setcbreak(terminal, termios.TCSANOW)  # keys come at once; Ctrl-C stays a signal
        self.ended, self.end = os.pipe()
        self.reading = threading.Thread(
            target=self._read, args=(terminal, self.microphone), daemon=True
        )
        self.reading.start()

    def __exit__(self, *error) -> None:
        if self.terminal is None or self.microphone is None:
            return
        import termios

        os.close(self.end)
        self.reading.join()
        os.close(self.ended)
        termios.tcsetattr(self.terminal, termios.TCSADRAIN, self.settings)
        if seconds := self.microphone.dropped_seconds:
            say(f"{seconds:.1f} s dropped in pauses")

    def _read(self, terminal: int, microphone: Microphone) -> None:
        from select import select

        while self.ended not in select([terminal, self.ended], [], [])[0]:
            key = os.read(terminal, 1)
            if not key:  # the terminal has gone
                return
            if key in b" pP":
                microphone.is_paused = not microphone.is_paused
                self.meter.is_paused = microphone.is_paused
                if microphone.is_paused:
                    self.screen.say("paused: what is said now is dropped; space goes on")
                else:
                    self.screen.say(f"on again; {microphone.dropped_seconds:.1f} s dropped so far")


class Steps:
    """What is being checked, on stderr."""

    def __enter__(self) -> Steps:
        self.status = stderr.status("")
        self.status.start()
        return self

    def show(self, message: str) -> None:
        """Turn to the next step."""
        self.status.update(escape(message))

    def __exit__(self, *error) -> None:
        self.status.stop()


class DownloadProgress:
    """A bar on stderr for every download that has something to bring.

    File, bytes, rate, time left.
    """

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
        self.bar.update(
            self.bar.task_ids[0], description=what, completed=progress.done, total=progress.total
        )
        if progress.done == progress.total:
            self.__exit__()

    def _start(self) -> RichProgress:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress

        columns = (BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        bar = RichProgress(TextColumn("{task.description}", markup=False), *columns, console=stderr)
        bar.add_task("")
        bar.start()
        return bar

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = None


class ExportProgress:
    """A bar on stderr: graph, tensor, bytes."""

    def __enter__(self) -> ExportProgress:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            "{task.description}",
            BarColumn(24),
            DownloadColumn(),
            TimeElapsedColumn(),
            "{task.fields[tensor]}",
        )
        self.bar = Progress(
            *(TextColumn(c) if isinstance(c, str) else c for c in columns), console=stderr
        )
        self.bar.start()
        self.tasks = {}
        return self

    def update(self, progress: ExportedSoFar) -> None:
        """Show how far the graphs are."""
        if progress.graphs not in self.tasks:
            names = ", ".join(Path(graph).stem for graph in progress.graphs)
            self.tasks[progress.graphs] = self.bar.add_task(names, total=None, tensor="tracing")
        tensor = progress.tensor if progress.done < progress.total else ""
        if progress.tensor:
            self.bar.update(
                self.tasks[progress.graphs],
                completed=progress.done,
                total=progress.total,
                tensor=tensor,
            )

    def measure(self, stage: str) -> None:
        """Name the part of the model that is being measured."""
        if "" not in self.tasks:
            self.tasks[""] = self.bar.add_task("measuring", total=None, tensor="")
        self.bar.update(self.tasks[""], tensor=stage)

    def __exit__(self, *error) -> None:
        self.bar.stop()
