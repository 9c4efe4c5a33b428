"""Show words as they come, and below them, on a terminal, how the work goes on."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Self

from ..escaping import one_line, printable
from .terminal import draw, format_time, info, print_error, send, stderr, write

if TYPE_CHECKING:
    from ..errors import VoxtralOnnxError
    from ..runtime.audio.files import AudioSource
    from ..runtime.audio.microphone import Microphone
    from ..runtime.live import StreamMetrics

WORD_COLUMN = 70  # of a terminal, behind which a live line is broken at the next space


class WordPrinter:
    """Writes text to stdout as it comes, without the space that the first word begins with."""

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
    """Shows words on stdout, and below them, where stderr is a terminal, how the work goes on."""

    def __init__(self, metrics: StreamMetrics | FilesProgress):
        self.metrics, self.words = metrics, WordPrinter()
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
        from ..runtime.text.captions import columns

        if not self.shares:
            self.words.show(text)
            return
        with self.lock:
            for character in printable(text).replace("\n", " ").replace("\t", " "):
                is_full = self.column + columns(character) >= stderr.width
                if is_full or (character == " " and self.column > WORD_COLUMN):
                    send("\x1b[K\n\x1b[K")
                    self.column = 0
                if not (self.column == 0 and character == " "):
                    send(character)
                    self.column += columns(character)

    def info(self, message: str | VoxtralOnnxError) -> None:
        """Print a line of its own on stderr."""
        with self.lock:
            self._clear()
            info(message) if isinstance(message, str) else print_error(message)

    def write(self, text: str) -> None:
        """Write whole lines to stdout."""
        with self.lock:
            self._clear()
            write(text)

    def end(self, text: str) -> None:
        """Show the last words, of a file or of all; those of the next one begin a line."""
        self.show(text)
        with self.lock:
            send("\x1b[J\n" if self.shares else "\n")
            self.column, self.words = 0, WordPrinter()

    def _clear(self) -> None:
        """Begin a line, and clear what shows how the work goes on."""
        if self.shares:
            send("\n" * bool(self.column) + "\x1b[J")
            self.column = 0
        elif stderr.is_terminal:
            draw("\r\x1b[K")

    def _draw(self) -> None:
        levels = " ▁▂▃▄▅▆▇█"
        while not self.ended.wait(0.25):
            level = levels[min(len(levels) - 1, int(self.metrics.level * len(levels)))]
            self._status(f"{level} {self.metrics}")

    def _status(self, line: str) -> None:
        line = one_line(line)[: stderr.width - 1]
        with self.lock:
            below, above = ("\n", f"\x1b[A\x1b[{self.column + 1}G") if self.shares else ("", "\r")
            draw(f"{below}\r\x1b[2m{line}\x1b[m\x1b[K{above}")


class FilesProgress:
    """Counts how far several files have come."""

    def __init__(self, files: int):
        self.files, self.files_done, self.seconds_done = files, 0, 0.0
        self.name, self.position, self.duration = "", 0.0, 0.0  # of the file at hand; seconds
        self.began = perf_counter()

    @property
    def level(self) -> float:
        """Return the share of the file at hand that is done."""
        return self.position / self.duration if self.duration else 0.0

    @property
    def total(self) -> str:
        """Return what is done of all files, and how fast."""
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
        parts = [self.total]
        if self.files > 1:
            parts.insert(0, f"{self.files_done} of {self.files} files")
        if self.name:
            position, duration = format_time(self.position), format_time(self.duration)
            parts.insert(0, f"{position} of {duration} of {self.name}")
        return ", ".join(parts)


class FilesScreen(LiveScreen):
    """Shows the words of several files."""

    def __init__(self, number: int):
        self.files = FilesProgress(number)
        super().__init__(self.files)


class PauseKey:
    """Pauses a microphone when space or p is pressed on a terminal, and lets it go on."""

    def __init__(self, microphone: Microphone | None, screen: LiveScreen, metrics: StreamMetrics):
        self.microphone, self.screen, self.metrics = microphone, screen, metrics
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
        arguments = terminal, self.microphone
        self.reading = threading.Thread(target=self._read, args=arguments, daemon=True)
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
            info(f"{seconds:.1f} s dropped in pauses")

    def _read(self, terminal: int, microphone: Microphone) -> None:
        from select import select

        while self.ended not in select([terminal, self.ended], [], [])[0]:
            key = os.read(terminal, 1)
            if not key:  # the terminal has gone
                return
            if key in b" pP":
                microphone.is_paused = not microphone.is_paused
                self.metrics.is_paused = microphone.is_paused
                if microphone.is_paused:
                    self.screen.info("paused: what is said now is dropped; space goes on")
                else:
                    self.screen.info(f"on again; {microphone.dropped_seconds:.1f} s dropped so far")
