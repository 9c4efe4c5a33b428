"""Limits on the connections that the server holds: their number, and their time without a request.

uvicorn has neither. Its own limit on idle connections begins with the first answer and ends with
the next byte, so that headers may take for ever. Limits on requests are in `request_limits`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 2000  # a browser opens up to six, a client of live streams one for each
BACKLOG = 512  # connections that wait to be accepted
HEADER_SECONDS = 10.0  # for TLS and a request's headers, after a connection or the last answer
# For uvicorn: less than that, and more than clients keep idle connections (httpx: 5)
KEEP_ALIVE_SECONDS = 8
# For the system: while its request is in work, a peer that has vanished without a word is noticed
# after two minutes, on Linux after one; there a peer that takes nothing for a minute is lost too
_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 60_000}


def connection_limit(wanted: int = MOST_CONNECTIONS) -> int:
    """Return the most connections to hold, at up to three file descriptors for each.

    The process's limit on descriptors is raised as far as need be and the system allows.
    """
    try:
        import resource
    except ImportError:  # Windows, where a process has no such limit
        return wanted
    descriptors, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    needed = 3 * wanted if most == resource.RLIM_INFINITY else min(3 * wanted, most)
    if descriptors < needed:
        with suppress(OSError, ValueError):  # macOS has a lower one that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
            descriptors = needed
    return max(1, min(wanted, descriptors // 3))


@dataclass(slots=True)
class _Held:
    """An open connection."""

    socket: socket.socket
    since: float  # seconds of the event loop, when it was accepted or its last request ended
    num_requests: int = 0  # in progress

    @property
    def is_open(self) -> bool:
        return self.socket.fileno() >= 0


class LimitedListener(socket.socket):
    """A listening socket that holds at most `limit` connections, and briefly one more.

    At the limit, a new connection replaces the oldest one that has no request in progress, so that
    clients that send half a request and wait cannot block others. If all connections have a request
    in progress, the new one is closed. From a connection without a request in progress nothing is
    read after `header_seconds`, however many bytes have come meanwhile, so that the event loop
    closes it once the last answer is sent. asyncio's selector event loops call this class's
    `accept`.
    """

    def __init__(
        self, listening: socket.socket, limit: int, header_seconds: float = HEADER_SECONDS
    ):
        super().__init__(fileno=listening.detach())
        self.limit, self.header_seconds = limit, header_seconds
        self._open: dict[tuple[str, int], _Held] = {}  # by peer's address, oldest first
        self._leaving: _Held | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; called in the event loop.

        Raises:
            BlockingIOError: no connection waits, or none can be taken yet.
        """
        if self._leaving and self._leaving.is_open:
            raise BlockingIOError  # the event loop closes it in its next rounds
        connection, address = super().accept()
        if len(self._open) >= self.limit:
            self._open = {peer: held for peer, held in self._open.items() if held.is_open}
        if len(self._open) >= self.limit and not self._make_room():
            connection.close()
            raise BlockingIOError

        # Hold it, and look at it again when its headers should have come
        _probe(connection)
        held = _Held(connection, asyncio.get_running_loop().time())
        self._open.pop(address[:2], None)  # a closed one, whose port is used again
        self._open[address[:2]] = held
        self._look_after(held, self.header_seconds)
        return connection, address

    def _look_after(self, held: _Held, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._look, held)

    def _look(self, held: _Held) -> None:
        """End the reading of a connection that asks for nothing, or look again later."""
        if not held.is_open:
            return
        left = held.since + self.header_seconds - asyncio.get_running_loop().time()
        if held.num_requests:
            self._look_after(held, self.header_seconds)
        elif left > 0:
            self._look_after(held, left)
        else:
            log.info("a connection is closed: no request came in %g s", self.header_seconds)
            _shut_down(held, socket.SHUT_RD)

    def _make_room(self) -> bool:
        """Shut down the oldest connection without a request in progress; return whether one was."""
        idle = next((held for held in self._open.values() if not held.num_requests), None)
        if idle is None:
            log.warning("%d requests are in work, as many as can be: more are refused", self.limit)
            return False
        log.warning(
            "%d connections are open, as many as can be: the oldest without a request makes room",
            self.limit,
        )
        self._leaving = idle
        _shut_down(idle, socket.SHUT_RDWR)
        return True

    def watch(self, app: Any) -> Any:
        """Return the ASGI application, wrapped to record which connections have a request."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            host, port = scope.get("client") or ("", 0)
            held = self._open.get((host, port))
            if held is None:
                await app(scope, receive, send)
                return
            held.num_requests += 1
            try:
                await app(scope, receive, send)
            finally:
                held.num_requests -= 1
                held.since = asyncio.get_running_loop().time()

        return watched


def _shut_down(held: _Held, directions: int) -> None:
    """End a connection in one direction or both, which the event loop then closes."""
    with suppress(OSError):  # its peer has left already
        held.socket.shutdown(directions)


def _probe(connection: socket.socket) -> None:
    """Let the system find out whether the peer is still there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
