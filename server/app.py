"""The HTTP server of `serve`: it sends the page and an artifact, and no other files.

Browsers require cross-origin isolation, media types and range requests, so it supports these.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, DeviceError, UsageError
from .limits import BACKLOG, LimitedListener, connection_limit
from .log import logging_to_stderr
from .page import INDEX, check_site, page_policy, site_files

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next one: enables WebAssembly threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # browsers revalidate their copy: a new version shows at once
}
LOCAL = ("127.0.0.1", "::1", "localhost")


def create_app(
    artifact: Path,
    precisions: Sequence[str] | None = None,
    *,
    allowed_hosts: Sequence[str] = (),
    allowed_artifacts: Sequence[str] = (),
) -> Starlette:
    """Return an ASGI application: the page at / and the artifact's files below artifact/.

    Only files that the manifest or the page names are served. Their hashes are compared now, and a
    file that changes later is answered with status 410.

    Args:
        artifact: folder of the artifact.
        precisions: precisions to serve; None for those that browsers run.
        allowed_hosts: names, besides this computer's own, that Host headers may have.
        allowed_artifacts: origins, besides its own, that the page may load artifacts from.

    Raises:
        ArtifactError: the artifact is incomplete, or onnxruntime-web is missing.
        DeviceError: starlette is not installed.
        UsageError: the artifact lacks a precision, or a host or an origin is not valid.
    """
    # Starlette is an optional dependency
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.responses import Response
        from starlette.routing import Route

        from .hosts import AllowedHosts, checked_host
        from .responses import FileAnswer
    except ImportError as error:
        raise DeviceError(
            f"serve needs {error.name}; run: pip install 'voxtral-onnx[serve]'"
        ) from error

    # Check every file now
    hosts = [checked_host(host) for host in allowed_hosts]
    manifest, site = site_files(artifact, precisions, allowed_artifacts=allowed_artifacts)
    index = site[INDEX]
    assert isinstance(index, bytes)
    files = check_site(artifact, manifest, site)
    # Frames are forbidden, because another site could lay this page over or under its own
    # (clickjacking)
    policy = f"{page_policy(index)}; frame-ancestors 'none'"
    headers = {**HEADERS, "Content-Security-Policy": policy}

    # Send a file, unless it has changed since
    async def send(request: Request) -> Response:
        name = request.path_params["name"] or "index.html"
        if name not in files:
            raise HTTPException(404, f"{name}: no such file", headers)
        file = files[name]
        kind = TYPES.get(Path(name).suffix, "application/octet-stream")
        if isinstance(file, bytes):
            return Response(file, headers=headers, media_type=kind)
        try:
            return FileAnswer(request, file, headers, kind)
        except ArtifactError as error:
            log.error("%s", error)
            reason = f"{name}: changed since serve was started; start it again"
            raise HTTPException(410, reason, headers) from error
        except OSError as error:
            log.error("%s", error)
            raise HTTPException(503, f"{name}: cannot be read; try again", headers) from error

    middleware = [Middleware(AllowedHosts, hosts)]
    return Starlette(routes=[Route("/{name:path}", send)], middleware=middleware)


def serve(
    artifact: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    precisions: Sequence[str] | None = None,
    https: bool = False,
    allowed_hosts: Sequence[str] = (),
    allowed_artifacts: Sequence[str] = (),
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page and an artifact until interrupted.

    Args:
        artifact: folder of the artifact.
        host: address to listen on; 0.0.0.0 for all addresses of this computer.
        port: port to listen on; 0 for a free one.
        precisions: precisions to serve; None for those that browsers run.
        https: serve over https with a self-signed certificate, of which browsers warn. Browsers
            on other devices need it: they give microphones and WebGPU to secure pages only.
        allowed_hosts: see `create_app`; `host` is allowed too.
        allowed_artifacts: see `create_app`.
        on_ready: called with the page's address once connections are accepted.

    Raises:
        ArtifactError, DeviceError: see `create_app`; or uvicorn or cryptography is not installed.
        StorageError: others may read the private key of https, or it cannot be written.
        UsageError: see `create_app`; or the address cannot be listened on.
    """
    # Take the port first: checking a large artifact takes a while
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{host}:{port}: cannot be listened on ({reason}); choose another --port, or 0"
        ) from error

    # Serve
    with LimitedListener(listening, connection_limit()) as listener, logging_to_stderr():
        app = create_app(
            artifact,
            precisions,
            allowed_hosts=(host, *allowed_hosts),
            allowed_artifacts=allowed_artifacts,
        )
        server = _server(listener.watch(app), https)
        shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
        place = f"[{shown}]" if ":" in shown else shown
        on_ready(f"http{'s' * https}://{place}:{listener.getsockname()[1]}/")
        server.run(sockets=[listener])


def _server(app: Any, https: bool) -> uvicorn.Server:
    """Return a uvicorn server for an application.

    Raises:
        DeviceError, StorageError: see `serve`.
    """
    try:
        import uvicorn

        from .tls import self_signed

        certificate, key = map(str, self_signed()) if https else (None, None)
    except ImportError as error:
        raise DeviceError(
            f"serve needs {error.name}; run: pip install 'voxtral-onnx[serve]'"
        ) from error
    config = uvicorn.Config(
        app,
        loop="asyncio",  # it calls the listener's `accept`; uvloop does not
        http="h11",
        log_config=None,
        log_level="warning",
        backlog=BACKLOG,
        proxy_headers=False,  # clients could forge their address with them
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return uvicorn.Server(config)
