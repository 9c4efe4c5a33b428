"""Random events of the Wyoming protocol: good ones, nearly good ones, and bytes that are none."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

TIMEOUT = 120  # seconds; a server answers in milliseconds, or closes
GRAMMAR = ("describe", "ping", "transcribe", "audio-start", "audio-chunk", "audio-stop", "x")


def some_value(draw: random.Random):
    return draw.choice([None, True, -1, 0, 1, 2, 4, 16_000, 1e9, "en", "x" * 200, "\ud800", [], {}])


def some_event(draw: random.Random) -> bytes:
    """Return an event, most often a good one, or bytes that are none."""
    if draw.random() < 0.05:
        return draw.randbytes(draw.randrange(200))
    form = {"rate": draw.choice([16_000, 8_000]), "width": draw.choice([2, 4]), "channels": 1}
    data: dict[str, Any] = {**form, "text": "x", "transcript_terms": ["lamp"]}
    if draw.random() < 0.1:
        data[draw.choice([*data, "name", "language"])] = some_value(draw)
    payload = draw.randbytes(draw.choice([0, 1, 320, 3200]))
    kind = draw.choice(GRAMMAR)
    event: dict[str, Any] = {"type": kind, "data": data}
    if kind == "audio-chunk":
        event["payload_length"] = len(payload)
    if draw.random() < 0.03:
        event[draw.choice([*event, "data_length", "payload_length"])] = some_value(draw)
    return json.dumps(event).encode() + b"\n" + (payload if kind == "audio-chunk" else b"")


async def torment(port: int, seed: int, count: int) -> None:
    """Send so many events, over one connection after the other, each of which is left in some way.

    None of the answers tells of a fault of the server's, and it closes what it has refused.
    """
    draw, left = random.Random(seed), count
    while left > 0:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = asyncio.create_task(reader.read())
        with suppress(OSError):  # refused
            for _ in range(draw.randrange(1, 40)):
                left -= 1
                writer.write(some_event(draw))
                await writer.drain()
            if draw.random() < 0.5:
                writer.write_eof()
            else:
                writer.transport.abort()
        with suppress(OSError):
            assert b"internal_error" not in await asyncio.wait_for(answers, TIMEOUT)
        writer.close()
