"""Limits on requests: their bodies, their number at once, and their time.

What comes before a request, a connection and its headers, is limited by `limits`. uvicorn has no
limits of time besides that on idle connections, and none on bodies.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...limits import KB, MB
from .access import CLIENT
from .refusals import POLICY_VIOLATION, refuse

log = logging.getLogger(__name__)

BODY_BYTES = 512 * MB  # four hours of FLAC
MOST_AT_ONCE = 16  # requests of a client
IDLE_SECONDS = 60.0
TOTAL_SECONDS = 6 * 3600.0
# Of a body, in each idle time: a speech codec's lowest rate has more
LEAST_BYTES = 16 * KB
RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The most that a request may take."""

    body_bytes: int = BODY_BYTES
    most_at_once: int = MOST_AT_ONCE  # of a client: a key, or an address where there are no keys
    idle_seconds: float = IDLE_SECONDS  # for `LEAST_BYTES` of a body to come, or an answer to go
    total_seconds: float = TOTAL_SECONDS  # of a WebSocket too


DEFAULT_LIMITS = RequestLimits()


class LimitedRequests:
    """Middleware that refuses or ends requests beyond limits; the application is cancelled.

    Requests without `CLIENT` in their scope, for open paths, are not counted, and neither are
    WebSockets, which the engine admits as it has slots. Of the limits of time, a WebSocket has that
    on the total; its pings find out whether anybody is there.
    """

    def __init__(self, app: ASGIApp, limits: RequestLimits = DEFAULT_LIMITS):
        self.app, self._limits = app, limits
        self._at_once = Counter[str]()  # requests in work, by client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application, as far as limits allow."""
        if scope["type"] == "websocket":
            await self._run_socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._count(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request, unless its client has too many."""
        client = scope.get(CLIENT)
        if client is None:
            await self._run(scope, receive, send)
            return
        most = self._limits.most_at_once
        if self._at_once[client] >= most:
            message = f"{most} requests of this client are in work, as many as can be; try again"
            headers = {"Retry-After": str(RETRY_SECONDS)}
            await refuse(scope, receive, send, 429, message, "rate_limit_exceeded", headers)
            return
        self._at_once[client] += 1
        try:
            await self._run(scope, receive, send)
        finally:
            self._at_once[client] -= 1
            if not self._at_once[client]:
                del self._at_once[client]

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request; answer it in the application's place if it reaches a limit."""
        exchange = _Exchange(receive, send, self._limits)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._limits.body_bytes:
            await refuse(scope, receive, send, *_too_large(self._limits))
            return
        try:
            async with asyncio.timeout(self._limits.total_seconds) as exchange.time:
                await self.app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not exchange.time.expired():
                raise  # the application's own
        if exchange.time.expired() and not exchange.is_answered:
            status, message, code = exchange.refusal or (
                503,
                f"the request took longer than {self._limits.total_seconds:g} s, the most it gets",
                "request_timeout",
            )
            await refuse(scope, receive, send, status, message, code)

    async def _run_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a WebSocket; close it when its time is over."""
        time = asyncio.timeout(self._limits.total_seconds)
        try:
            async with time:
                await self.app(scope, receive, send)
        except TimeoutError:
            if not time.expired():
                raise
            reason = "the longest time of a session is over"
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})


class _Exchange:
    """A request and its answer, while they are within limits."""

    time: asyncio.Timeout  # that cancels the application

    def __init__(self, receive: Receive, send: Send, limits: RequestLimits):
        self._receive, self._send, self._limits = receive, send, limits
        self._bytes, self._has_more = 0, True  # of the body
        self._waited, self._come = 0.0, 0  # seconds and bytes since `LEAST_BYTES` had come
        self.is_answered = False
        self.refusal: tuple[int, str, str] | None = None  # status, message, code

    def _cancel(self, status: int, message: str, code: str) -> None:
        """Let the application be cancelled at the next place where it waits."""
        self.refusal = status, message, code
        self.time.reschedule(asyncio.get_running_loop().time())

    async def receive(self) -> Message:
        """Return the next message of the client: the next part of the body, or that it has left."""
        if not self._has_more:
            return await self._receive()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._limits.idle_seconds - self._waited):
                message = await self._receive()
        except TimeoutError:
            self._cancel(408, "the body comes too slowly", "body_timeout")
            await _cancelled()

        # Count what has come; the time in which the application does not ask is not the client's
        size = len(message.get("body", b""))
        self._waited, self._come = self._waited + loop.time() - begun, self._come + size
        if self._come >= LEAST_BYTES:
            self._waited, self._come = 0.0, 0
        self._bytes += size
        self._has_more = message["type"] == "http.request" and message.get("more_body", False)
        if self._bytes > self._limits.body_bytes:
            self._cancel(*_too_large(self._limits))
            await _cancelled()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; a client that does not take it is given up."""
        self.is_answered = True
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                await self._send(message)
        except TimeoutError:
            log.warning("a client does not take its answer, and is given up")
            self._cancel(408, "the answer is not taken", "answer_timeout")
            await _cancelled()


def _too_large(limits: RequestLimits) -> tuple[int, str, str]:
    most = f"{limits.body_bytes / MB:g} MB"
    return 413, f"the body is larger than {most}, the most a request may have", "body_too_large"


async def _cancelled() -> NoReturn:
    """Wait until this task is cancelled."""
    while True:
        await asyncio.sleep(1)
