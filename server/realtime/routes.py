"""The WebSocket routes of live speech."""

from __future__ import annotations

from collections.abc import Callable

from starlette.websockets import WebSocket

from .connection import Connection
from .dialect import Dialect


async def serve_dialect(
    socket: WebSocket, make: Callable[[Connection], Dialect], subprotocol: str | None = None
) -> None:
    """Accept a client, and speak a dialect with it until it leaves."""
    await socket.accept(subprotocol)
    connection = Connection(socket)
    try:
        dialect = make(connection)
        dialect.greet()
        await dialect.run()
    finally:
        await connection.end()
