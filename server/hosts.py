"""By which names a request may call this computer.

Whoever owns a name can make it lead here, and a page of that name then counts as ours to a browser
(DNS rebinding). So a request under a name that is not this computer's is refused.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import UsageError

log = logging.getLogger(__name__)

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::[0-9]{0,5})?")


class AllowedHosts:
    """Passes requests on whose Host header names this computer, and answers others with 421.

    Allowed are `own_names`, the address at which a request has arrived, and `more`.
    """

    def __init__(self, app: ASGIApp, more: Iterable[str] = ()):
        self.app = app
        self.names = {*own_names(), "127.0.0.1", "::1", *map(checked_host, more)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on to the application."""
        if scope["type"] != "lifespan":
            name = _named(Headers(scope=scope).get("host", ""))
            if name not in {*self.names, _spelled((scope.get("server") or ("",))[0])}:
                got = f"{name}; start serve with --allowed-host {name}" if name else "none"
                text = f"host: expected a name of this computer, got {got}\n"
                log.warning("a request was refused: %s", text.rstrip())
                headers = {"X-Content-Type-Options": "nosniff"}
                await PlainTextResponse(text, 421, headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def own_names() -> list[str]:
    """Return the names that this computer has for itself and in its own network."""
    name = socket.gethostname().lower()
    return list(dict.fromkeys(("localhost", name, f"{name.partition('.')[0]}.local")))


def checked_host(host: str) -> str:
    """Return a name or an address as requests are compared with it.

    Raises:
        UsageError: it is neither.
    """
    address = host.partition("%")[0]  # behind which IPv6 names an interface
    found = _named(f"[{address}]" if ":" in address else address)
    if found is None:
        raise UsageError(f"{host}: expected the name or the address of a computer, without a port")
    return found


def _named(header: str) -> str | None:
    """Return the name or address in a Host header; None where it is not one."""
    found = _HOST.fullmatch(header)
    return _spelled(found[1] or found[2]) if found else None


def _spelled(host: str) -> str:
    """Return one spelling for all that a name or an address has."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().removesuffix(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
