"""The check of the Host header, which defends against DNS rebinding.

The owner of a domain can make it resolve to this computer; browsers then treat that domain's pages
as of the same origin as this server. So requests whose Host header does not name this computer are
refused.
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
    """Middleware that answers requests with 421 unless their Host header names this computer.

    Allowed are `own_names`, the address at which a request has arrived, and `more`.
    """

    def __init__(self, app: ASGIApp, more: Iterable[str] = ()):
        self.app = app
        self.names = {*own_names(), "127.0.0.1", "::1", *map(checked_host, more)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application, or refuse it."""
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
    """Return the names of this computer, for itself and in its local network."""
    name = socket.gethostname().lower()
    return list(dict.fromkeys(("localhost", name, f"{name.partition('.')[0]}.local")))


def checked_host(host: str) -> str:
    """Return a host name or an address in the spelling that requests are compared with.

    Raises:
        UsageError: it is neither.
    """
    address = host.partition("%")[0]  # IPv6 addresses may end with %INTERFACE
    found = _named(f"[{address}]" if ":" in address else address)
    if found is None:
        raise UsageError(f"{host}: expected the name or the address of a computer, without a port")
    return found


def _named(header: str) -> str | None:
    """Return the name or address in a Host header without the port; None where it has none."""
    found = _HOST.fullmatch(header)
    return _spelled(found[1] or found[2]) if found else None


def _spelled(host: str) -> str:
    """Return the canonical spelling of a name or an address: lower case, mapped IPv4 as IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().removesuffix(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
