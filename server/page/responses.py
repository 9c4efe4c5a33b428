"""The HTTP response that sends a file or a range of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .files import CheckedFile

CHUNK = 1 << 18  # bytes read at a time
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class FileAnswer(StreamingResponse):
    """A response with a file, or with the byte range of it that the request names.

    Raises:
        ArtifactError: the file has changed since it was checked.
        HTTPException: the range is outside of the file.
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
        """Send the response, and close the file even where that fails."""
        with self.file:
            await super().__call__(scope, receive, send)


def requested_range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """Return the first byte and the end of the range that a request names; None for the whole file.

    Several ranges, and ranges under a condition (If-Range), are answered with the whole file.

    Raises:
        HTTPException: 416, the range begins after the end of the file.
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
            return None  # not a valid range, which RFC 9110 says to ignore
    if start >= size:
        raise HTTPException(416, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def _read(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    while start < stop and (chunk := file.read(min(CHUNK, stop - start))):
        start += len(chunk)
        yield chunk
