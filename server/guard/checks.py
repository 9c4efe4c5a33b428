"""All that stands before an application: checks of hosts, origins and keys, and limits."""

from __future__ import annotations

from collections.abc import Container, Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from .access import OPEN_PATHS, ApiKeys, KeyCheck, RefuseBrowser
from .hosts import AllowedHosts, OwnOrigins, checked_host, checked_origin
from .request_limits import DEFAULT_LIMITS, LimitedRequests, RequestLimits

NO_KEYS = ApiKeys()


def guards(
    *,
    keys: ApiKeys = NO_KEYS,
    open_paths: Container[str] = OPEN_PATHS,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    limits: RequestLimits = DEFAULT_LIMITS,
    refuse_browser: RefuseBrowser | None = None,
) -> list[Middleware]:
    """Return all checks, the outermost and cheapest first; they cover WebSockets too.

    Args:
        keys: who may use the application; if there are none, everybody who can reach it.
        open_paths: what may be read without a key, such as the page's own files.
        allowed_hosts: names, besides this computer's own, that Host headers may have.
        allowed_origins: pages of other origins, whose scripts may use the API.
        limits: on each request.
        refuse_browser: tells the script of a browser's WebSocket that its key is wrong.

    Raises:
        UsageError: a host or an origin is not valid.
    """
    hosts = [checked_host(host) for host in allowed_hosts]
    origins = [checked_origin(origin) for origin in allowed_origins]
    found = [Middleware(AllowedHosts, hosts), Middleware(OwnOrigins, origins)]
    if origins:  # browsers ask with OPTIONS first, and without the key
        methods, headers = ("GET", "POST", "DELETE"), ("Authorization", "Content-Type")
        found.append(Middleware(CORSMiddleware, origins, methods, headers))
    return [
        *found,
        Middleware(KeyCheck, keys, open_paths, refuse_browser),
        Middleware(LimitedRequests, limits),
    ]
