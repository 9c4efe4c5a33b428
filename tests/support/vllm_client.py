"""A client of vLLM's protocol of live speech, as its example is written."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import soundfile
from support.commands import CLIP
from websockets.sync.connection import Connection

RATE = 16_000
UPDATE, APPEND, COMMIT = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
)


def pcm(path: Path = CLIP) -> bytes:
    """The sound of a clip as the protocol has it."""
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return samples.tobytes()


class Client:
    """A client with a connection."""

    def __init__(self, socket: Connection, patience: float = 20):
        self.socket, self.patience = socket, patience

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def receive(self) -> dict[str, Any]:
        return json.loads(self.socket.recv(self.patience))

    def speak(self, sound: bytes, size: int = 2560) -> None:
        for at in range(0, len(sound), size):
            self.send(APPEND, audio=base64.b64encode(sound[at : at + size]).decode())

    def until(self, kind: str) -> list[dict[str, Any]]:
        events = [self.receive()]
        while events[-1]["type"] != kind:
            assert events[-1]["type"] != "error", events[-1]
            events.append(self.receive())
        return events
