"""A client's connection: messages in, messages out, within limits; a WebSocket with JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from ...escaping import quoted
from ...limits import MB
from ..api_error import ApiError

log = logging.getLogger(__name__)

# Codes of WebSockets' closing, as IANA lists them
NORMAL, POLICY, INTERNAL, RESTART, TRY_LATER = 1000, 1008, 1011, 1012, 1013
MOST_MESSAGE = 16 * MB  # bytes of a client's message; OpenAI's limit on sound is 15 MB
MOST_UNSENT = 2 * MB  # bytes that a client has not taken; 20 minutes of words, each a message
LAST_SECONDS = 20.0  # for a client to take what it was sent, when its connection ends
INVALID_JSON, INVALID_EVENT = "invalid_json", "invalid_event"
_encoder = msgspec.json.Encoder()


class ClientConnection(ABC):
    """A client's connection, which one task reads; any part of it may send."""

    def __init__(self):
        """Begin to send."""
        self._unsent, self.num_unsent = deque[str | bytes](), 0  # and their length
        self._wake, self._closing = asyncio.Event(), None
        self._receiver: asyncio.Task[Any] | None = None  # that waits for a message
        self._is_cut = False
        self._writer = asyncio.create_task(self._write())

    @property
    def is_closing(self) -> bool:
        """Return whether no more messages will be sent."""
        return self._closing is not None

    async def next_message(self) -> dict[str, Any] | None:
        """Return what `receive` does; None too when the client is cut off while it says nothing."""
        self._receiver = asyncio.current_task()
        try:
            return await self.receive()
        except asyncio.CancelledError:
            if self._is_cut and self._receiver and not self._receiver.uncancel():
                return None
            raise
        finally:
            self._receiver = None

    @abstractmethod
    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, which has a `type`; None when the client has left.

        Raises:
            ApiError: it is no message; the next one may be.
        """

    @abstractmethod
    def encoded(self, message: dict[str, Any]) -> str | bytes:
        """Return a message as it is sent."""

    @abstractmethod
    async def put(self, encoded: str | bytes) -> None:
        """Send a message; wait while the client takes none.

        Raises:
            WebSocketDisconnect, RuntimeError, OSError: the client has left.
        """

    @abstractmethod
    async def shut(self, code: int, reason: str) -> None:
        """Close the connection, once all is sent; raises as `put`."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, in the order of calls; a client that takes too few is cut off."""
        if self._closing:
            return
        encoded = self.encoded(message)
        is_late = self.num_unsent > MOST_UNSENT  # before this message, however long it is
        self._unsent.append(encoded)
        self.num_unsent += len(encoded)
        if is_late:
            log.warning("a client does not take its messages, and is cut off")
            self._unsent.clear()
            self._is_cut = True
            self.close(POLICY, "too many messages wait to be taken")
            if self._receiver:
                self._receiver.cancel()
        self._wake.set()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the socket behind what was sent."""
        if self._closing is None:
            self._closing = code, reason
            self._wake.set()

    async def end(self) -> None:
        """Wait until all is sent and the socket is closed, or long enough; called last."""
        self.close()
        await asyncio.wait({self._writer}, timeout=LAST_SECONDS)
        self._writer.cancel()

    def abort(self) -> None:
        """Send nothing more, as nobody is there."""
        self._closing = self._closing or (NORMAL, "")
        self._writer.cancel()

    async def _write(self) -> None:
        """Send what waits, until the socket is closed."""
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._unsent:
                    encoded = self._unsent.popleft()
                    await self.put(encoded)
                    self.num_unsent -= len(encoded)
                if self._closing:
                    await self.shut(*self._closing)
                    return


class Connection(ClientConnection):
    """A client's WebSocket."""

    def __init__(self, socket: WebSocket):
        """Wrap a socket that is accepted."""
        super().__init__()
        self.socket = socket

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None when the client has left.

        Raises:
            ApiError: it is no JSON object with a type; the next one may be.
        """
        try:
            message = await self.socket.receive()
        except RuntimeError:  # the server has closed the socket meanwhile
            return None
        if message["type"] == "websocket.disconnect":
            return None
        text = message.get("text")
        if text is None:
            raise ApiError("expected a text message with JSON, got a binary one", code=INVALID_JSON)
        try:
            values = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ApiError(
                f"expected JSON, got {quoted(text)} ({error})", code=INVALID_JSON
            ) from error
        if not isinstance(values, dict) or not isinstance(values.get("type"), str):
            raise ApiError(
                f"expected a JSON object with a type, got {quoted(text)}", code=INVALID_EVENT
            )
        return values

    def encoded(self, message: dict[str, Any]) -> str:
        """Return a message in JSON."""
        return _encoder.encode(message).decode()

    async def put(self, encoded: str | bytes) -> None:
        """Send a message; wait while the client takes none."""
        assert isinstance(encoded, str)
        await self.socket.send_text(encoded)

    async def shut(self, code: int, reason: str) -> None:
        """Close the socket."""
        await self.socket.close(code, reason)


def sound_of(message: dict[str, Any], field: str = "audio") -> bytes:
    """Return the sound that a message has in base64.

    Raises:
        ApiError: it has none, or it is no base64.
    """
    text = message.get(field)
    if not isinstance(text, str):
        raise ApiError(
            f"{message['type']}: expected {field} in base64, got {quoted(text)}",
            param=field,
            code="invalid_audio",
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(
            f"{message['type']}: {field} is no base64 ({error})", param=field, code="invalid_audio"
        ) from error
