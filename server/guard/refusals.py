"""Answers to requests that the server refuses before a protocol sees them, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

POLICY_VIOLATION = 1008  # of RFC 6455, for WebSockets that are closed


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    message: str,
    code: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer a request, or the handshake of a WebSocket, with an error.

    Args:
        scope: of the request.
        receive: of the request.
        send: of the request.
        status: of HTTP.
        message: for the client; it must not repeat what is secret.
        code: the error in one word, as OpenAI's clients read it.
        headers: more headers of the answer.
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    content = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    answer = JSONResponse(content, status, {"X-Content-Type-Options": "nosniff", **(headers or {})})
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": code})
        return
    await answer(scope, receive, send)
