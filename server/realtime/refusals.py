"""Errors that clients of live speech are told before a dialect serves them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..api_error import ApiError
from ..rest.form import MISTRAL_PATH
from . import mistral_session, openai_session, vllm
from .choice import AUTO, OPENAI, REALTIME, VLLM, named_dialect, neutral_error

PATH = "/v1/realtime"
EVENTS = {
    OPENAI: openai_session.error_event,
    VLLM: vllm.error_event,
    AUTO: neutral_error,
}
UNAUTHORIZED = 3000  # a code of WebSockets' closing, as IANA lists them


def error_event(connection: HTTPConnection, default: str, error: ApiError) -> dict[str, Any]:
    """Return an error in the dialect of a connection, as far as it is known.

    Args:
        connection: that is asked for.
        default: dialect of the server.
        error: to tell of.
    """
    if connection.scope["path"] == MISTRAL_PATH:
        return mistral_session.error_event(error)
    return EVENTS[named_dialect(connection, default)](error)


def subprotocol(socket: WebSocket) -> str | None:
    """Return one of the subprotocols that a client offers, as browsers need it."""
    offered = socket.scope["subprotocols"]
    return REALTIME if REALTIME in offered else next(iter(offered), None)


class BrowserRefusal:
    """The refusal of WebSockets of browsers, whose scripts see no status of HTTP.

    The connection is made, told of the error and closed; nothing is read from it.
    """

    def __init__(self, dialect: str):
        """Refuse in this dialect where a client's own is not known."""
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send, error: ApiError) -> bool:
        """Refuse a connection; return whether it is one that this is for."""
        if scope["path"] not in (PATH, MISTRAL_PATH):
            return False
        socket = WebSocket(scope, receive, send)
        with suppress(WebSocketDisconnect):  # it has left already
            await socket.accept(subprotocol(socket))
            await socket.send_json(error_event(socket, self._dialect, error))
            await socket.close(UNAUTHORIZED, error.code)
        return True
