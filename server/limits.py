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
    """Return the most connections to hold, at up to three file descriptors for each."""
    try:
        import resource
    except ImportError:  # Windows, where a process has no such limit
        return MOST_CONNECTIONS
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, descriptors // 3))


class LimitedListener(socket.socket):
    """A listening socket that holds at most `limit` connections, and briefly one more.

    At the limit, a new connection replaces the oldest one that has no request in progress, so that
    clients that send half a request and wait cannot block others. If all connections have a request
    in progress, the new one is closed. asyncio's selector event loops call this class's `accept`.
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
            BlockingIOError: no connection waits, or none can be taken yet.
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
        """Shut down the oldest connection without a request in progress; return whether one was."""
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
        """Return the ASGI application, wrapped to record which connections have a request."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            peer = scope.get("client")
            self._working.add(peer)
            try:
                await app(scope, receive, send)
            finally:
                self._working.discard(peer)

        return watched
