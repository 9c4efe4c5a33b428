"""The routes of the page: it sends the page and an artifact, and no other files.

Browsers require cross-origin isolation, media types and range requests, so it supports these.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import ArtifactError
from .files import INDEX, check_site, page_policy, site_files
from .responses import FileAnswer

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


class Site:
    """The page at / and the files of an artifact below artifact/.

    Only files that the manifest or the page names are served. Their hashes are compared when it is
    made, and a file that changes later is answered with status 410.
    """

    def __init__(
        self,
        artifact: Path,
        precisions: Sequence[str] | None = None,
        *,
        allowed_artifacts: Sequence[str] = (),
    ):
        """Check all files.

        Args:
            artifact: folder of the artifact.
            precisions: precisions to serve; None for those that browsers run.
            allowed_artifacts: origins, besides its own, that the page may load artifacts from.

        Raises:
            ArtifactError: the artifact is incomplete, or onnxruntime-web is missing.
            UsageError: the artifact lacks a precision, or an origin is not valid.
        """
        manifest, site = site_files(artifact, precisions, allowed_artifacts=allowed_artifacts)
        index = site[INDEX]
        assert isinstance(index, bytes)
        self.files = check_site(artifact, manifest, site)
        # Frames are forbidden, because another site could lay this page over or under its own
        # (clickjacking)
        policy = f"{page_policy(index)}; frame-ancestors 'none'"
        self.headers = {**HEADERS, "Content-Security-Policy": policy}
        self.routes = [Route("/{name:path}", self.send)]

    @property
    def paths(self) -> set[str]:
        """Return the paths of all that it sends."""
        return {"/", *(f"/{name}" for name in self.files)}

    async def send(self, request: Request) -> Response:
        """Send a file, unless it has changed since it was checked."""
        name = request.path_params["name"] or "index.html"
        if name not in self.files:
            raise HTTPException(404, f"{name}: no such file", self.headers)
        file = self.files[name]
        kind = TYPES.get(Path(name).suffix, "application/octet-stream")
        if isinstance(file, bytes):
            return Response(file, headers=self.headers, media_type=kind)
        try:
            return FileAnswer(request, file, self.headers, kind)
        except ArtifactError as error:
            log.error("%s", error)
            reason = f"{name}: changed since serve was started; start it again"
            raise HTTPException(410, reason, self.headers) from error
        except OSError as error:
            log.error("%s", error)
            raise HTTPException(503, f"{name}: cannot be read; try again", self.headers) from error
