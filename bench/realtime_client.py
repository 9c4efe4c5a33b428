"""Clients of a server of live speech, many in a process, which send sound as it is spoken.

They speak vLLM's realtime protocol or OpenAI's, as any server of these does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

PIECE_SECONDS = 0.08
PATIENCE = 60.0  # seconds for an answer
RATES = {"vllm": 16_000, "openai": 24_000}
_APPEND, _COMMIT = "input_audio_buffer.append", "input_audio_buffer.commit"
_TEXTS = {
    "transcription.delta": "delta",
    "conversation.item.input_audio_transcription.delta": "delta",
}
_ENDS = {
    "transcription.done": "text",
    "conversation.item.input_audio_transcription.completed": "transcript",
}


@dataclass(frozen=True)
class Target:
    """A server, and how to speak with it."""

    url: str  # ws://host:port/v1/realtime
    protocol: str  # vllm or openai
    model: str
    key: str = ""


@dataclass
class Session:
    """The measurements of one stream; times in seconds."""

    sound: int  # index of what was spoken
    connected: float | None = None  # from the beginning of the connection
    first_word: float | None = None  # from the first sound sent
    # Of each word from when all of its sound was sent until it came, if the server tells ends
    lags: list[float] = field(default_factory=list)
    last_word: float | None = None  # from the end of the sound until all text had come
    text: str | None = None
    error: str | None = None  # refused, or broken off
    late: int = 0  # pieces that were sent more than a piece late: this machine was too slow


async def speak(
    target: Target, index: int, samples: np.ndarray, *, paced: bool, wait: float = 0.0
) -> Session:
    """Speak with a server as one client, and return what was measured.

    Args:
        target: the server.
        index: of the sound.
        samples: float32 [n] at the protocol's rate.
        paced: whether to send as it is spoken, or all at once.
        wait: seconds before the first sound.
    """
    found, listening = Session(index), None
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    began = perf_counter()
    url = target.url + ("?intent=transcription" if target.protocol == "openai" else "")
    try:
        async with connect(url, additional_headers=headers, open_timeout=PATIENCE) as socket:
            await _begin(socket, target)
            found.connected = perf_counter() - began
            await asyncio.sleep(wait)
            start = perf_counter()
            listening = asyncio.create_task(_listen(socket, found, start))
            try:
                await _send(socket, target, samples, found, start, paced=paced)
                ended = perf_counter()
                await asyncio.wait_for(listening, PATIENCE)
                found.last_word = perf_counter() - ended
            finally:
                listening.cancel()
    except (OSError, WebSocketException, TimeoutError, RefusalError) as error:
        # An error event stands before the closing that follows it
        told = listening.exception() if listening and listening.done() else None
        found.error = str(told or error) or type(error).__name__
    return found


class RefusalError(Exception):
    """An error event of the server."""


async def _begin(socket: ClientConnection, target: Target) -> None:
    message = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
    if message["type"] == "error":
        raise RefusalError(json.dumps([message["error"], message.get("code")]))
    if target.protocol == "vllm":
        update = {"model": target.model, "timestamp_granularities": ["segment"]}
        await socket.send(json.dumps({"type": "session.update", **update}))
        await socket.send(json.dumps({"type": _COMMIT, "final": False}))
        return
    audio = {"format": {"type": "audio/pcm", "rate": RATES["openai"]}}
    audio["transcription"] = {"model": target.model}
    session = {"type": "transcription", "audio": {"input": audio | {"turn_detection": None}}}
    await socket.send(json.dumps({"type": "session.update", "session": session}))


async def _send(
    socket: ClientConnection,
    target: Target,
    samples: np.ndarray,
    found: Session,
    start: float,
    *,
    paced: bool,
) -> None:
    """Send the sound in pieces, then its end."""
    content = (samples.clip(-1, 1) * 32767).astype("<i2").tobytes()
    size = 2 * round(PIECE_SECONDS * RATES[target.protocol])
    for number, at in enumerate(range(0, len(content), size), 1):
        audio = base64.b64encode(content[at : at + size]).decode()
        due = start + number * PIECE_SECONDS  # when all of the piece is spoken
        if paced:
            left = due - perf_counter()
            found.late += left < -PIECE_SECONDS
            await asyncio.sleep(max(0.0, left))
        await socket.send(json.dumps({"type": _APPEND, "audio": audio}))
    final = {"final": True} if target.protocol == "vllm" else {}
    await socket.send(json.dumps({"type": _COMMIT, **final}))


async def _listen(socket: ClientConnection, found: Session, start: float) -> None:
    """Take what comes until all text has come.

    Raises:
        RefusalError: the server has sent an error.
    """
    async for content in socket:
        now = perf_counter() - start
        message = json.loads(content)
        kind = message["type"]
        if kind == "error":
            raise RefusalError(json.dumps([message["error"], message.get("code")]))
        if kind in _TEXTS and message[_TEXTS[kind]].strip() and found.first_word is None:
            found.first_word = now
        found.lags += [now - each["end"] for each in message.get("segments", ()) if kind in _TEXTS]
        if kind in _ENDS:
            found.text = message[_ENDS[kind]].strip()
            return


def speak_alone(target: Target, sounds: Sequence[np.ndarray]) -> list[Session]:
    """Speak each sound alone, all of it at once, and return what was measured."""

    async def all_of_them() -> list[Session]:
        return [
            await speak(target, index, _at_rate(target, samples), paced=False)
            for index, samples in enumerate(sounds)
        ]

    return asyncio.run(all_of_them())


def speak_together(
    target: Target, sounds: Sequence[np.ndarray], count: int, processes: int
) -> list[Session]:
    """Speak as so many clients at a time, in processes of their own.

    Args:
        target: the server.
        sounds: float32 [n] at 16 kHz, of which each client takes one.
        count: clients, which begin in the course of two seconds.
        processes: that share them.
    """
    at_rate = [_at_rate(target, samples) for samples in sounds]
    shares = [list(range(count))[first::processes] for first in range(processes)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        work = [(asdict(target), at_rate, share, count) for share in shares if share]
        found = pool.starmap(_speak_share, work)
    return [Session(**each) for share in found for each in share]


def _speak_share(
    target: Mapping[str, Any], sounds: Sequence[np.ndarray], share: Sequence[int], count: int
) -> list[dict[str, Any]]:
    async def all_of_them() -> list[Session]:
        return await asyncio.gather(
            *(
                speak(
                    Target(**target),
                    number % len(sounds),
                    sounds[number % len(sounds)],
                    paced=True,
                    wait=2.0 * number / count,
                )
                for number in share
            )
        )

    return [asdict(each) for each in asyncio.run(all_of_them())]


def _at_rate(target: Target, samples: np.ndarray) -> np.ndarray:
    rate = RATES[target.protocol]
    return samples if rate == 16_000 else soxr.resample(samples, 16_000, rate)
