"""The limit on connections that the server holds at once."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 256  # a browser opens up to six
BACKLOG = 64  # connections that wait to be accepted


def connection_limit() -> int:
    """Return how many connections the process may hold, at up to three descriptors each."""
    try:
        import resource
    except ImportError:  # Windows, where a process has no such limit
        return MOST_CONNECTIONS
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, descriptors // 3))


class LimitedListener(socket.socket):
    """A listening socket that holds at most `limit` connections, and one more for a moment.

    At the limit a new connection takes the place of the oldest one without a request in work, so
    that clients who send half a request and wait shut nobody out. Where all have a request in
    work, the new connection is closed. asyncio's selector loops accept through this object.
    """

    def __init__(self, listening: socket.socket, limit: int):
        super().__init__(fileno=listening.detach())
        self.limit = limit
        self._open: dict[socket.socket, tuple[str, int]] = {}  # peers' addresses, oldest first
        self._leaving: socket.socket | None = None
        self._working: set[tuple[str, int]] = set()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            BlockingIOError: no connection waits, or there is no place for one yet.
        """
        self._open = {held: peer for held, peer in self._open.items() if held.fileno() >= 0}
        if self._leaving in self._open:
            raise BlockingIOError  # the event loop closes it in its next rounds
        connection, address = super().accept()
        if len(self._open) >= self.limit and not self._make_room():
            connection.close()
            raise BlockingIOError
        self._open[connection] = address[:2]
        return connection, address

    def _make_room(self) -> bool:
        """Shut down the oldest connection without a request in work; return False without one."""
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
        """Return the ASGI application, with a record of connections that have a request in work."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            peer = scope.get("client")
            self._working.add(peer)
            try:
                await app(scope, receive, send)
            finally:
                self._working.discard(peer)

        return watched
