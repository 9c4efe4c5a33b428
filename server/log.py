"""The server's log on standard error: a line for each record, each kind at most once a minute.

Most records are caused by clients, who must not be able to flood a terminal or send it control
characters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..escaping import printable

SECONDS = 60.0  # between two written records of a kind
LOGGERS = ("uvicorn", "asyncio", __package__ or "")


class OncePerMinute(logging.Filter):
    """A filter that passes one record of each kind a minute, with the number of suppressed ones."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, tuple[float, int]] = {}  # time of the last one, how many since

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written; its kind is the first line of its format string."""
        kind = str(record.msg).partition("\n")[0]
        now = time.monotonic()
        written, more = self._kinds.get(kind, (-SECONDS, 0))
        if now - written < SECONDS:
            self._kinds[kind] = written, more + 1
            return False
        self._kinds[kind] = now, 0
        if more:
            record.msg = f"{record.getMessage()} (and {more:,} more like it before)"
            record.args = ()
        return True


class OneLine(logging.Formatter):
    """A formatter of one line: time, level and message, with control characters escaped.

    A traceback follows on lines of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        message = record.getMessage().replace("\n", "\\n")
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        text = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()}: {message}{trace}"
        return printable(text)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write the log of the server and its libraries to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(OncePerMinute())
    handler.setFormatter(OneLine())
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
