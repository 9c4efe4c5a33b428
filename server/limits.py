"""How many connections a server holds at once, and whose place one more takes."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 256  # six a browser
BACKLOG = 64  # connections that wait to be accepted


def connection_limit() -> int:
    """Return how many connections the process may hold: each may open a file as well."""
    try:
        import resource
    except ImportError:  # Windows, where a process has no such limit
        return MOST_CONNECTIONS
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, descriptors // 3))


class LimitedListener(socket.socket):
    """A listening socket that holds `limit` connections, and one more for a moment.

    When there are as many, one more takes the place of the oldest that has no request in work: one
    that sends half of a request and waits shuts nobody out. Where all have one, it is turned away.
    asyncio's selector loops accept through this object.
    """

    def __init__(self, listening: socket.socket, limit: int):
        super().__init__(fileno=listening.detach())
        self.limit = limit
        self._open: dict[socket.socket, tuple[str, int]] = {}  # peers' addresses, oldest first
        self._leaving: socket.socket | None = None
        self._working: set[tuple[str, int]] = set()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; `BlockingIOError` says that there is none, or no place yet."""
        self._open = {held: peer for held, peer in self._open.items() if held.fileno() >= 0}
        if self._leaving in self._open:
            raise BlockingIOError  # the loop closes it in its next rounds
        connection, address = super().accept()
        if len(self._open) >= self.limit and not self._make_room():
            connection.close()
            raise BlockingIOError
        self._open[connection] = address[:2]
        return connection, address

    def _make_room(self) -> bool:
        """End the oldest connection without a request in work, if there is one."""
        idle = next((held for held, peer in self._open.items() if peer not in self._working), None)
        if idle is None:
            log.warning("%d requests are in work, as many as can be: more are refused", self.limit)
            return False
        log.warning(
            "%d connections are open, as many as can be: the oldest without a request makes room",
            self.limit,
        )
        self._leaving = idle
        with suppress(OSError):  # its peer has left already
            idle.shutdown(socket.SHUT_RDWR)
        return True

    def watch(self, app: Any) -> Any:
        """Return the ASGI application such that connections with a request in work are known."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            peer = scope.get("client")
            self._working.add(peer)
            try:
                await app(scope, receive, send)
            finally:
                self._working.discard(peer)

        return watched
