"""Show words as they come, and below them, on a terminal, how the work goes on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ..escaping import printable
from .progress import FilesProgress
from .terminal import draw, fit, info, print_error, send, stderr, terminal_columns, write

if TYPE_CHECKING:
    from ..errors import VoxtralOnnxError
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

    def __init__(self, status: Callable[[int], str]):
        """Begin; `status` returns a line about the work, for a terminal of so many columns."""
        self.status, self.words = status, WordPrinter()
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.column = 0  # of the cursor, where both are one terminal
        self.columns = 0  # of the terminal, when it was last asked
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
            self._show_status("")

    def show(self, text: str) -> None:
        """Add to the words; lines are broken by us, because the line below them must be known."""
        from ..runtime.text.captions import columns

        if not self.shares:
            self.words.show(text)
            return
        with self.lock:
            self._measure()
            for character in printable(text).replace("\n", " ").replace("\t", " "):
                is_full = self.column + columns(character) >= self.columns
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
            draw("\r\x1b[J")

    def _measure(self) -> None:
        """Ask how wide the terminal is; in one of another width than before, begin a line."""
        if (columns := terminal_columns()) != self.columns and self.column:
            send("\x1b[J\n")  # its lines may have been broken anew, by the terminal
            self.column = 0
        self.columns = columns

    def _draw(self) -> None:
        while not self.ended.wait(0.25):
            self._show_status(self.status(terminal_columns()))

    def _show_status(self, line: str) -> None:
        with self.lock:
            if self.shares:
                self._measure()
            line = fit(line, terminal_columns() - 1)
            below, above = ("\n", f"\x1b[A\x1b[{self.column + 1}G") if self.shares else ("", "\r")
            draw(f"{below}\r\x1b[2m{line}\x1b[m\x1b[J{above}")


class FilesScreen(LiveScreen):
    """Shows the words of several files."""

    def __init__(self, paths: list[str]):
        self.files = FilesProgress(paths)
        super().__init__(lambda columns: self.files.line(columns, stderr.encoding))


def live_line(metrics: StreamMetrics) -> str:
    """Return a line about a live stream: its level, and how it keeps up."""
    levels = " ▁▂▃▄▅▆▇█" if stderr.encoding.startswith("utf") else " .:|#"
    return f"{levels[min(len(levels) - 1, int(metrics.level * len(levels)))]} {metrics}"


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
        with suppress(termios.error):  # the terminal has gone
            termios.tcsetattr(self.terminal, termios.TCSADRAIN, self.settings)
        if seconds := self.microphone.dropped_seconds:
            info(f"{seconds:.1f} s dropped in pauses")

    def _read(self, terminal: int, microphone: Microphone) -> None:
        from select import select

        while self.ended not in select([terminal, self.ended], [], [])[0]:
            try:
                key = os.read(terminal, 1)
            except OSError:
                key = b""
            if not key:  # the terminal has gone
                return
            if key in b" pP":
                microphone.is_paused = not microphone.is_paused
                self.metrics.is_paused = microphone.is_paused
                if microphone.is_paused:
                    self.screen.info("paused: what is said now is dropped; space goes on")
                else:
                    self.screen.info(f"on again; {microphone.dropped_seconds:.1f} s dropped so far")
