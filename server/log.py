"""What a server says of its requests: a line each, a kind of line once a minute.

Strangers cause most of it, so neither their number nor their bytes decide what a terminal gets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..escaping import printable

SECONDS = 60.0  # in which one line of a kind is written
LOGGERS = ("uvicorn", "asyncio", __package__ or "")


class OncePerMinute(logging.Filter):
    """Lets one record of a kind through in a minute, and then says how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, tuple[float, int]] = {}  # when one was written, and more since

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether it is written; a kind is the first line before values are put in."""
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
    """Time, level and message in a line, a traceback below it, control characters as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        message = record.getMessage().replace("\n", "\\n")
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        text = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()}: {message}{trace}"
        return printable(text)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write what servers log to standard error."""
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
