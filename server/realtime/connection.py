"""A client's connection: messages in, messages out, within limits; a WebSocket with JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
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
MOST_AHEAD = 16 * MB  # bytes of messages that are read and not taken; one more is begun
LAST_SECONDS = 20.0  # for a client to take what it was sent, when its connection ends
INVALID_JSON, INVALID_EVENT = "invalid_json", "invalid_event"
_encoder = msgspec.json.Encoder()


class ClientConnection(ABC):
    """A client's connection: one task takes its messages; any part of it may send.

    Messages are read ahead of those that are taken, so that a client's leaving is noticed while
    much of its sound waits for the engine.
    """

    def __init__(self):
        """Begin to send and to read."""
        self._unsent, self.num_unsent = deque[str | bytes](), 0  # and their length
        self._wake, self._closing = asyncio.Event(), None
        self._inbox = asyncio.Queue[tuple[dict[str, Any] | ApiError | None, int]]()
        self._num_ahead, self._has_room = 0, asyncio.Event()  # bytes that are not taken yet
        self.received = 0  # bytes of the message that `receive` has returned
        self.on_gone: Callable[[], None] = lambda: None  # called when the client has left
        self.is_gone = False
        self._writer = asyncio.create_task(self._write())
        self._reading = asyncio.create_task(self._read())

    @property
    def is_closing(self) -> bool:
        """Return whether no more messages will be sent."""
        return self._closing is not None

    @property
    def still_listens(self) -> bool:
        """Return whether a client that sends no more may wait for answers."""
        return False

    async def next_message(self) -> dict[str, Any] | None:
        """Return the next message; None when the client has left or the connection is closed.

        Raises:
            ApiError: it is no message; the next one may be.
        """
        if self.is_gone or self.is_closing:
            return None
        message, size = await self._inbox.get()
        self._num_ahead -= size
        self._has_room.set()
        if isinstance(message, ApiError):
            raise message
        return message

    def interject(self, message: dict[str, Any] | None) -> None:
        """Let a message be taken behind those that have come; None for the end of all."""
        self._inbox.put_nowait((message, 0))

    async def _read(self) -> None:
        """Read messages until the client has left."""
        message: dict[str, Any] | ApiError | None = None
        while True:
            while self._num_ahead > MOST_AHEAD:
                self._has_room.clear()
                await self._has_room.wait()
            self.received = 0
            try:
                message = await self.receive()
            except ApiError as error:
                message = error
            except Exception as error:
                log.error("a connection cannot be read: %s: %s", type(error).__name__, error)
                message = None
            self._num_ahead += self.received
            self._inbox.put_nowait((message, self.received))
            if message is None:
                if not self.still_listens:
                    self.is_gone = True
                    self.on_gone()
                return

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
            self.close(POLICY, "too many messages wait to be taken")
        self._wake.set()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the socket behind what was sent."""
        if self._closing is None:
            self._closing = code, reason
            self._wake.set()
            self.interject(None)

    async def sent(self) -> None:
        """Wait until all is sent and the connection is closed, or long enough."""
        await asyncio.wait({self._writer}, timeout=LAST_SECONDS)

    async def end(self) -> None:
        """Wait until all is sent and the socket is closed, or long enough; called last."""
        self.close()
        await self.sent()
        self._writer.cancel()
        self._reading.cancel()

    def abort(self) -> None:
        """Send nothing more, as nobody is there."""
        self._closing = self._closing or (NORMAL, "")
        self._writer.cancel()
        self._reading.cancel()

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
        self.received = len(text or message.get("bytes") or b"")
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
