"""The checks of the Host and Origin headers, which defend against other sites' pages.

The owner of a domain can make it resolve to this computer; browsers then treat that domain's pages
as of the same origin as this server (DNS rebinding). So requests whose Host header does not name
this computer are refused. And a page of any site can make a browser send requests here, and open
WebSockets, which browsers do not hold to one origin. They say from which origin a page is, so
requests of other origins are refused. Clients that are no browsers say nothing.
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

from ...errors import UsageError
from .refusals import refuse

log = logging.getLogger(__name__)

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]{1,30})://([^/?#@\\\s]{1,300})", re.IGNORECASE)
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


class OwnOrigins:
    """Middleware that answers requests with 403 if a page of another origin makes them.

    The own origin is that of the Host header, which `AllowedHosts` has checked, over http or https:
    a proxy may speak the other one with the browser.
    """

    def __init__(self, app: ASGIApp, more: Iterable[str] = ()):
        self.app = app
        self.origins = frozenset(map(checked_origin, more))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origins = headers.getlist("origin")
            if not all(self._is_own(each, headers.get("host", "")) for each in origins):
                log.warning("a request of another site's page was refused")
                message = (
                    "the page that makes this request is of another origin; start serve with "
                    "--allowed-origin ORIGIN to let it"
                )
                await refuse(scope, receive, send, 403, message, "other_origin")
                return
        await self.app(scope, receive, send)

    def _is_own(self, origin: str, host: str) -> bool:
        """Return whether an Origin header is that of a Host header, or is allowed."""
        found = _ORIGIN.fullmatch(origin)
        if found is None:  # null: a file, a page in a sandbox
            return False
        if _spelled_origin(origin) in self.origins:
            return True
        default = _DEFAULT_PORTS.get(found[1].lower())
        own = _place(host, default) if default else None
        return own is not None and _place(found[2], default) == own


def checked_origin(origin: str) -> str:
    """Return an origin in the spelling that requests are compared with.

    Raises:
        UsageError: it is none.
    """
    if not _ORIGIN.fullmatch(origin) or "*" in origin:
        raise UsageError(f"{origin}: expected an origin, as https://example.org")
    return _spelled_origin(origin)


def _spelled_origin(origin: str) -> str:
    """Return an origin in lower case, without the port that its scheme has anyway."""
    scheme, _, place = origin.lower().partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{place.removesuffix(f':{default}')}"


def _place(header: str, default_port: str | None) -> tuple[str, str | None] | None:
    """Return the host and the port in a Host header; None where it has no host."""
    name = _named(header)
    port = re.search(r":([0-9]+)$", header)
    return (name, port[1] if port else default_port) if name else None


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
