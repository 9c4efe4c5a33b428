"""The choice of a dialect at /v1/realtime: OpenAI's or vLLM's, which share the path.

What it asks for before the connection is made may tell; otherwise its first message does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection

from ..api_error import ApiError
from .connection import RESTART, Connection
from .dialect import MOVE, RESTARTING, moving
from .openai_session import new_id
from .vllm import APPEND, COMMIT, UPDATE

OPENAI, VLLM, AUTO = "openai", "vllm", "auto"
REALTIME = "realtime"  # the subprotocol that OpenAI's clients for browsers ask for
_BETA_HEADER, _BETA_SUBPROTOCOL = "realtime=v1", "openai-beta.realtime-v1"
BETA_GONE = (
    "the beta of OpenAI's realtime protocol is gone there as well: leave out the header "
    "OpenAI-Beta and the subprotocol openai-beta.realtime-v1, and send session.update with "
    '{"type": "transcription", "audio": {"input": {…}}} as its session'
)


def asks_for_beta(connection: HTTPConnection) -> bool:
    """Return whether a client wants the beta of OpenAI's protocol."""
    header = connection.headers.get("openai-beta", "")
    return _BETA_HEADER in header or _BETA_SUBPROTOCOL in connection.scope["subprotocols"]


def named_dialect(connection: HTTPConnection, default: str) -> str:
    """Return the dialect of a client as far as it is known before its first message."""
    if default == AUTO and connection.query_params.get("intent") == "transcription":
        return OPENAI
    return default


def dialect_of(message: Mapping[str, Any]) -> str:
    """Return the dialect of a client whose first message this is.

    Raises:
        ApiError: it is in neither.
    """
    kind = message["type"]
    if "final" in message or kind == COMMIT:
        return VLLM
    if kind == UPDATE and isinstance(message.get("session"), dict):
        return OPENAI
    if kind == UPDATE and "model" in message:
        return VLLM
    if kind == APPEND:
        return OPENAI
    raise ApiError(
        f"expected {UPDATE} with a `session` (OpenAI's dialect) or a `model` (vLLM's), or {APPEND}",
        code="unknown_event",
    )


async def first_message(connection: Connection) -> dict[str, Any] | None:
    """Return a client's first message that tells its dialect; None when it has left."""
    while not connection.is_closing:
        try:
            message = await connection.next_message()
            if message is MOVE:
                connection.send(neutral_error(moving()))
                connection.close(RESTART, RESTARTING)
                return None
            if message is not None:
                dialect_of(message)
            return message
        except ApiError as error:
            connection.send(neutral_error(error))
    return None


def neutral_error(error: ApiError) -> dict[str, Any]:
    """Return an error event that both kinds of clients can read."""
    return {"type": "error", "event_id": new_id("event"), **error.body, "code": error.code}
