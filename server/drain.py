"""The end of a server: its clients finish or move, and what has not ended in time is ended."""

from __future__ import annotations

import asyncio
import logging
import time

from .engines import Engines

log = logging.getLogger(__name__)

LAST_SECONDS = 2.0  # for live clients to take that they are ended


class Drain:
    """The end of all recordings and live connections of a server."""

    def __init__(self, engines: Engines | None, hint: str = ""):
        """Take whose they are, None for a server that has none, and what its log says beside."""
        self._engines, self._hint = engines, hint and f"; {hint}"
        self._ends_at: float | None = None  # monotonic seconds
        self._has_moved = False  # live clients were told to move

    @property
    def has_begun(self) -> bool:
        """Return whether nothing new is taken."""
        return self._ends_at is not None

    @property
    def seconds_left(self) -> float:
        """Return how long it goes on at most, in seconds."""
        return 0.0 if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def begin(self, seconds: float) -> None:
        """Refuse what is new, and give the rest so many seconds; again for another number."""
        self._ends_at = time.monotonic() + seconds
        if self._engines:
            self._engines.is_draining = True

    async def has_ended(self) -> bool:
        """Return whether all has ended, and end it where the time is over; called often."""
        engines = self._engines
        if not self.has_begun:
            return False
        if engines is None:
            return True
        if not self._has_moved:
            self._has_moved = True
            self._tell_to_move(engines)
        if engines.num_waited_for and self.seconds_left:
            return False
        if engines.num_waited_for:
            await self._stop(engines)
        return True

    def _tell_to_move(self, engines: Engines) -> None:
        """Tell live clients that the server begins to end, and the log what it waits for."""
        if engines.num_waited_for:
            log.warning(
                "recordings and live connections that are finished first: %d, in up to %.0f s%s",
                engines.num_waited_for,
                self.seconds_left,
                self._hint,
            )
        for each in engines.live:
            each.move()

    async def _stop(self, engines: Engines) -> None:
        """End all with an error, and let it reach live clients."""
        log.warning(
            "recordings and live connections that are ended with an error: %d",
            engines.num_waited_for,
        )
        live = [asyncio.create_task(each.stopped()) for each in engines.live]
        engines.stop()
        if live:
            await asyncio.wait(live, timeout=LAST_SECONDS)
