"""Show words on stdout as they are decoded and, on a terminal, a status line below them."""

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
    from ..runtime.live.metrics import StreamMetrics

WORD_COLUMN = 70  # a line of words that passes it is broken at the next space


class WordPrinter:
    """A printer of words to stdout, which leaves out the space before the first one."""

    def __init__(self):
        self.begun = False

    def show(self, text: str) -> None:
        """Write the next piece of text."""
        if text and not self.begun:
            self.begun = True
            text = text.removeprefix(" ")
        if text:
            write(text)


class LiveScreen:
    """Words on stdout with a status line below them, which is drawn where stderr is a terminal."""

    def __init__(self, status: Callable[[int], str]):
        """Take a function that returns the status line for a terminal of so many columns."""
        self.status, self.words = status, WordPrinter()
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.column = 0  # of the cursor, if stdout and stderr share a terminal
        self.columns = 0  # of the terminal, when it was last measured
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
        """Append words; lines are broken here, so that the place of the status line is known."""
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
        """Print a note or an error as a line on stderr."""
        with self.lock:
            self._clear()
            info(message) if isinstance(message, str) else print_error(message)

    def write(self, text: str) -> None:
        """Write whole lines to stdout."""
        with self.lock:
            self._clear()
            write(text)

    def end(self, text: str) -> None:
        """Show the last words of a file and end their line; the next file begins a new one."""
        self.show(text)
        with self.lock:
            send("\x1b[J\n" if self.shares else "\n")
            self.column, self.words = 0, WordPrinter()

    def _clear(self) -> None:
        """Move to the beginning of a line, and erase the status line."""
        if self.shares:
            send("\n" * bool(self.column) + "\x1b[J")
            self.column = 0
        elif stderr.is_terminal:
            draw("\r\x1b[J")

    def _measure(self) -> None:
        """Measure the terminal's width; if it has changed, begin a new line."""
        if (columns := terminal_columns()) != self.columns and self.column:
            send("\x1b[J\n")  # the terminal may have broken its lines anew
            self.column = 0
        self.columns = columns

    def _draw(self) -> None:
        """Redraw the status line four times a second, until the end."""
        while not self.ended.wait(0.25):
            self._show_status(self.status(terminal_columns()))

    def _show_status(self, line: str) -> None:
        """Draw the status line below the words, and return the cursor to them."""
        with self.lock:
            if self.shares:
                self._measure()
            line = fit(line, terminal_columns() - 1)
            below, above = ("\n", f"\x1b[A\x1b[{self.column + 1}G") if self.shares else ("", "\r")
            draw(f"{below}\r\x1b[2m{line}\x1b[m\x1b[J{above}")


class FilesScreen(LiveScreen):
    """The screen of several files, whose status line is their progress."""

    def __init__(self, paths: list[str]):
        self.files = FilesProgress(paths)
        super().__init__(lambda columns: self.files.line(columns, stderr.encoding))

    def __enter__(self) -> Self:
        self.files.start()
        return super().__enter__()


def live_line(metrics: StreamMetrics) -> str:
    """Return the status line of a live stream: its level, and whether transcription keeps up."""
    levels = " ▁▂▃▄▅▆▇█" if stderr.encoding.startswith("utf") else " .:|#"
    return f"{levels[min(len(levels) - 1, int(metrics.level * len(levels)))]} {metrics}"


class PauseKey:
    """A key handler: space or p on a terminal pauses a microphone, and resumes it."""

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
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(self.terminal, termios.TCSADRAIN, self.settings)
        if seconds := self.microphone.dropped_seconds:
            info(f"{seconds:.1f} s dropped in pauses")

    def _read(self, terminal: int, microphone: Microphone) -> None:
        """Read keys until the block ends, and pause or resume the microphone."""
        from select import select

        while self.ended not in select([terminal, self.ended], [], [])[0]:
            try:
                key = os.read(terminal, 1)
            except OSError:
                key = b""
            if not key:  # the terminal was closed
                return
            if key in b" pP":
                microphone.is_paused = not microphone.is_paused
                self.metrics.is_paused = microphone.is_paused
                if microphone.is_paused:
                    self.screen.info("paused: what is said now is dropped; press space to go on")
                else:
                    self.screen.info(f"on again; {microphone.dropped_seconds:.1f} s dropped so far")
