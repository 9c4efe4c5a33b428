"""What `serve` reads of a request: whom it calls, and which bytes it asks for."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException

from voxtral_onnx.errors import UsageError
from voxtral_onnx.server.guard.hosts import checked_host
from voxtral_onnx.server.page.responses import requested_range

SIZE = 1000


def seeds() -> dict[str, bytes]:
    """Return the two headers as browsers send them."""
    return {
        "part": b"Host: localhost\nRange: bytes=0-99\n",
        "rest": b"Host: 192.168.1.2\nRange: bytes=500-\n",
        "end": b"Host: ::1\nRange: bytes=-100\n",
        "condition": b'Host: my-computer.local\nRange: bytes=5-5\nIf-Range: "tag"\n',
    }


def parse(data: bytes, folder: Path) -> None:
    """Take the headers; a part lies within the file."""
    lines = [line.partition(": ") for line in data.decode("latin-1").split("\n")]
    headers = {name.lower(): value for name, _, value in lines}
    name = checked_host(headers.get("host", ""))
    assert name.isascii() and name.isprintable()
    try:
        part = requested_range(headers, SIZE)
    except HTTPException as error:
        raise UsageError(f"{error.status_code}") from error
    assert part is None or 0 <= part[0] < part[1] <= SIZE
