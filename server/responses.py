"""A file as an answer: whole, or the part that was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .page import CheckedFile

CHUNK = 1 << 18  # bytes read at a time
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class FileAnswer(StreamingResponse):
    """Sends what a request asks for of a file.

    Raises:
        ArtifactError: it is another file than was checked.
        HTTPException: the range lies outside of it.
    """

    def __init__(self, request: Request, file: CheckedFile, headers: Mapping[str, str], kind: str):
        part = requested_range(request.headers, file.size)
        start, stop = part or (0, file.size)
        headers = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        self.file = file.open()
        content = [b""] if request.method == "HEAD" else _read(self.file, start, stop)
        super().__init__(content, 206 if part else 200, headers, kind)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close the file however that ends."""
        with self.file:
            await super().__call__(scope, receive, send)


def requested_range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """Return the bytes that a request asks for, from and up to; None for all.

    Several ranges at once, and ranges under a condition, are answered with the whole file.

    Raises:
        HTTPException: 416, there are no such bytes.
    """
    found = _RANGE.fullmatch(headers.get("range", ""))
    if not found or found[0] == "bytes=-" or "if-range" in headers:
        return None
    first, last = found[1], found[2]
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None  # no range at all
    if start >= size:
        raise HTTPException(416, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def _read(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    while start < stop and (chunk := file.read(min(CHUNK, stop - start))):
        start += len(chunk)
        yield chunk
