"""The WebSocket routes of live speech."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.websockets import WebSocket

from ...escaping import quoted
from ..api_error import ApiError
from ..engines import Engines
from .choice import (
    AUTO,
    BETA_GONE,
    OPENAI,
    VLLM,
    asks_for_beta,
    dialect_of,
    first_message,
    named_dialect,
)
from .connection import POLICY, Connection
from .dialect import Dialect
from .openai import OpenAIRealtime
from .openai_session import session_created
from .refusals import PATH, error_event, subprotocol
from .vllm import VllmRealtime
from .vllm import session_created as vllm_session_created

DIALECTS: dict[str, type[Dialect]] = {OPENAI: OpenAIRealtime, VLLM: VllmRealtime}


@asynccontextmanager
async def accepted(socket: WebSocket) -> AsyncIterator[Connection]:
    """Accept a client, and close its connection in the end."""
    await socket.accept(subprotocol(socket))
    connection = Connection(socket)
    try:
        yield connection
    finally:
        await connection.end()


async def serve_dialect(socket: WebSocket, make: Callable[[Connection], Dialect]) -> None:
    """Accept a client, and speak a dialect with it until it leaves."""
    async with accepted(socket) as connection:
        dialect = make(connection)
        dialect.greet()
        await dialect.run()


def live_router(path: str, serve: Callable[[WebSocket], Awaitable[None]]) -> APIRouter:
    """Return the routes of a path: for WebSockets, and for requests that do not ask for one."""
    router = APIRouter()
    router.add_api_websocket_route(path, serve)
    router.add_api_route(path, require_upgrade, include_in_schema=False)
    return router


async def require_upgrade(request: Request) -> None:
    """Refuse a request that should have asked for a WebSocket.

    Raises:
        HTTPException: always.
    """
    path = request.url.path
    raise HTTPException(
        426,
        f"{path}: expected a WebSocket; connect to it with ws:// or wss://. A proxy on the way is "
        "to pass on the headers Upgrade and Connection",
        {"Upgrade": "websocket", "Connection": "Upgrade"},
    )


class Realtime:
    """The route /v1/realtime."""

    def __init__(self, engines: Engines, names: Sequence[str], dialect: str = AUTO):
        """Make the route.

        Args:
            engines: for the speech of clients.
            names: of the model, the server's own first.
            dialect: openai, vllm, or auto for what the first message tells.
        """
        self.engines, self.names, self.dialect = engines, names, dialect
        self.router = live_router(PATH, self.realtime)

    async def realtime(self, socket: WebSocket) -> None:
        """Serve a client in its dialect."""
        async with accepted(socket) as connection:
            if error := self._refusal(socket):
                connection.send(error_event(socket, self.dialect, error))
                connection.close(POLICY, error.code or "")
                return

            # Greet it in its dialect, or in both until it is known
            known = named_dialect(socket, self.dialect)
            if known != AUTO:
                dialect, message = self._new(known, connection), None
                dialect.greet()
            else:
                undecided = OpenAIRealtime(connection, self.engines, self.names)
                created = session_created(undecided.session_id, self.names)
                connection.send(created | vllm_session_created())
                self.engines.live.add(undecided)
                try:
                    message = await first_message(connection)
                finally:
                    self.engines.live.discard(undecided)
                if message is None:
                    return
                is_openai = dialect_of(message) == OPENAI
                dialect = undecided if is_openai else self._new(VLLM, connection)
            await dialect.run(message)

    def _refusal(self, socket: WebSocket) -> ApiError | None:
        """Return what is wrong with what a client asks for before its first message."""
        if asks_for_beta(socket):
            return ApiError(BETA_GONE, code="beta_api_gone")
        model = socket.query_params.get("model")
        if model is not None and model not in self.names:
            known = ", ".join(self.names)
            return ApiError(
                f"model {quoted(model)}: expected one of {known}", code="model_not_found"
            )
        return None

    def _new(self, name: str, connection: Connection) -> Dialect:
        return DIALECTS[name](connection, self.engines, self.names)
