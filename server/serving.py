"""The process of `serve`: it listens, and ends when it is told to or when an engine has failed."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from ..errors import DeviceError, UsageError
from .engines import Engines
from .guard.connections import (
    BACKLOG,
    HEADER_SECONDS,
    KEEP_ALIVE_SECONDS,
    LimitedListener,
    connection_limit,
)
from .log import logging_to_stderr
from .realtime.connection import MOST_MESSAGE
from .realtime.keepalive import PatientProtocol
from .tls import self_signed

if TYPE_CHECKING:
    from .wyoming import WyomingServer

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
PING_SECONDS = 20.0  # a client that does not answer within as much again has vanished
LAST_SECONDS = 2.0  # for the answers to requests that are ended


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a socket that listens.

    Args:
        host: address to listen on; 0.0.0.0 for all addresses of this computer.
        port: port to listen on; 0 for a free one.
        option: that names the port.

    Raises:
        UsageError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{host}:{port}: cannot be listened on ({reason}); choose another {option}, or 0"
        ) from error


def serve(
    app: Any,
    listening: socket.socket,
    *,
    engines: Engines | None = None,
    wyoming: WyomingServer | None = None,
    https: bool = False,
    drain_seconds: float = DRAIN_SECONDS,
    header_seconds: float = HEADER_SECONDS,
    on_ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve an application until interrupted.

    At a first signal it refuses new recordings, and ends when those that it has are done.

    Args:
        app: ASGI application.
        listening: socket, which is closed in the end.
        engines: of the application.
        wyoming: server of another protocol, which begins and ends with this one.
        https: serve over https with a self-signed certificate, of which browsers warn. Browsers
            on other devices need it: they give microphones and WebGPU to secure pages only.
        drain_seconds: for which it waits at most.
        header_seconds: for the headers of a request.
        on_ready: called with the port once connections are accepted.

    Raises:
        DeviceError: an engine has failed, so that it must be started anew; or cryptography is
            not installed.
        StorageError: others may read the private key of https, or it cannot be written.
    """
    limited = LimitedListener(listening, connection_limit(), header_seconds)
    with limited as listener, logging_to_stderr():
        certificate, key = map(str, _certificate()) if https else (None, None)
        config = uvicorn.Config(
            listener.watch(app),
            loop="asyncio",  # it calls the listener's `accept`; uvloop does not
            http="h11",
            log_config=None,
            log_level="warning",
            backlog=BACKLOG,
            ws=PatientProtocol,
            ws_max_size=MOST_MESSAGE,
            ws_per_message_deflate=False,  # sound in base64 hardly shrinks, and hundreds send it
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PING_SECONDS,
            proxy_headers=False,  # clients could forge their address with them
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        server = DrainingServer(config, engines, drain_seconds, wyoming)
        on_ready(listener.getsockname()[1])
        server.run(sockets=[listener])
    if engines and engines.failure:
        raise DeviceError(f"{engines.failure}; start serve again")


def _certificate() -> tuple[Path, Path]:
    try:
        return self_signed()
    except ImportError as error:
        raise DeviceError(
            f"https needs {error.name}; run: pip install 'voxtral-onnx[serve]'"
        ) from error


class DrainingServer(uvicorn.Server):
    """A server that lets recordings end before it does."""

    def __init__(
        self,
        config: uvicorn.Config,
        engines: Engines | None,
        drain_seconds: float,
        wyoming: WyomingServer | None = None,
    ):
        super().__init__(config)
        self.engines, self.drain_seconds, self._wyoming = engines, drain_seconds, wyoming
        self._ends_at: float | None = None  # monotonic seconds
        self._has_moved = False  # live connections were told to move

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept clients."""
        await super().startup(sockets)
        if self._wyoming:
            await self._wyoming.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more clients, and wait for answers on their way."""
        if self._wyoming:
            await self._wyoming.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at a first signal; end recordings at a second, and everything at a third."""
        self._captured_signals.append(sig)
        self.force_exit = self.should_exit
        self._drain(self.drain_seconds if self._ends_at is None else 0.0)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end now; called ten times a second."""
        engines = self.engines
        if engines and engines.failure and self._ends_at is None:
            log.error("%s", engines.failure)
            self._drain(self.drain_seconds)
        if engines and self._ends_at is not None and not self._has_moved:
            self._has_moved = True
            self._tell_to_move(engines, self._ends_at)
        num_open = engines.num_waited_for if engines else 0
        if self._ends_at is not None and not (num_open and time.monotonic() < self._ends_at):
            if engines and num_open:
                await self._stop(engines)
            # For downloads, and answers on their way
            left = max(LAST_SECONDS, self._ends_at - time.monotonic())
            self.config.timeout_graceful_shutdown = math.ceil(left)
            self.should_exit = True
        return await super().on_tick(counter)

    def _tell_to_move(self, engines: Engines, ends_at: float) -> None:
        """Tell live clients that the server begins to end, and the log what it waits for."""
        if engines.num_waited_for:
            log.warning(
                "recordings and live connections that are finished first: %d, in up to %.0f s; "
                "another signal ends them now",
                engines.num_waited_for,
                max(0.0, ends_at - time.monotonic()),
            )
        for each in engines.live:
            each.move()

    async def _stop(self, engines: Engines) -> None:
        """End all with an error, and let it reach live clients."""
        log.warning(
            "recordings and live connections that are ended with an error: %d",
            engines.num_waited_for,
        )
        live = [asyncio.create_task(each.stopped()) for each in engines.live]
        engines.stop()
        if live:
            await asyncio.wait(live, timeout=LAST_SECONDS)

    def _drain(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds
        if self.engines:
            self.engines.is_draining = True
