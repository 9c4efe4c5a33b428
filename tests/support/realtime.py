"""Live speech over WebSockets: servers of one dialect, and sound as clients send it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from support.servers import running

from voxtral_onnx.server.engines import Engines
from voxtral_onnx.server.realtime.connection import Connection
from voxtral_onnx.server.realtime.dialect import Dialect
from voxtral_onnx.server.realtime.routes import serve_dialect


@contextmanager
def speaking(
    path: str, engines: Engines, make: Callable[[Connection], Dialect], **options
) -> Iterator[int]:
    """Serve one dialect at a path; gives the port.

    Args:
        path: of the route.
        engines: of the dialect; the caller closes them.
        make: makes the dialect of a connection.
        options: of `running`.
    """

    async def serve(socket: WebSocket) -> None:
        await serve_dialect(socket, make)

    with running(Starlette(routes=[WebSocketRoute(path, serve)]), **options) as port:
        yield port


def sound(clip: Path, encoding: str = "PCM_16", rate: int = 24_000) -> bytes:
    """The raw samples of a clip, as libsndfile encodes them: PCM_16, ULAW or ALAW."""
    samples, own = soundfile.read(clip, dtype="float32")
    return encoded(soxr.resample(samples, own, rate), encoding)


def encoded(samples: np.ndarray, encoding: str = "PCM_16") -> bytes:
    """Samples, float [n], as raw ones of an encoding."""
    with BytesIO() as file:
        soundfile.write(file, samples, 8000, format="RAW", subtype=encoding, endian="LITTLE")
        return file.getvalue()


def pieces(content: bytes, size: int) -> list[str]:
    """Sound in base64, in pieces of so many bytes."""
    return [
        base64.b64encode(content[first : first + size]).decode()
        for first in range(0, len(content), size)
    ]
