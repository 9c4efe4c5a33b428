"""All that stands before an application: checks of hosts, origins and keys, and limits."""

from __future__ import annotations

from collections.abc import Container, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from .access import OPEN_PATHS, ApiKeys, KeyCheck
from .hosts import AllowedHosts, OwnOrigins, checked_origin
from .request_limits import DEFAULT_LIMITS, LimitedRequests, RequestLimits


def guarded(
    app: ASGIApp,
    *,
    keys: ApiKeys,
    open_paths: Container[str] = OPEN_PATHS,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    limits: RequestLimits = DEFAULT_LIMITS,
) -> ASGIApp:
    """Return an application behind all checks, the cheapest first; they cover WebSockets too.

    Args:
        app: what is guarded.
        keys: who may use it; if there are none, everybody who can reach it.
        open_paths: what may be read without a key, such as the page's own files.
        allowed_hosts: names, besides this computer's own, that Host headers may have.
        allowed_origins: pages of other origins, whose scripts may use the API.
        limits: on each request.

    Raises:
        UsageError: a host or an origin is not valid.
    """
    origins = [checked_origin(origin) for origin in allowed_origins]
    app = KeyCheck(LimitedRequests(app, limits), keys, open_paths)
    if origins:  # browsers ask with OPTIONS first, and without the key
        methods, headers = ("GET", "POST", "DELETE"), ("Authorization", "Content-Type")
        app = CORSMiddleware(app, origins, methods, headers)
    return AllowedHosts(OwnOrigins(app, origins), allowed_hosts)
