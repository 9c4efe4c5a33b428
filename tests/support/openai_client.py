"""A client of OpenAI's Realtime API that reads every event as strictly as their types are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from openai.types.realtime import RealtimeServerEvent, RealtimeTranscriptionSessionCreateRequest
from support.realtime import pieces, sound
from websockets.sync.client import connect
from websockets.sync.connection import Connection

TRANSCRIPTION = "conversation.item.input_audio_transcription"
TIMEOUT = 30  # seconds; an answer takes milliseconds
_TYPES = {
    get_args(each.model_fields["type"].annotation)[0]: each
    for each in get_args(get_args(RealtimeServerEvent)[0])
}


def check_event(event: dict[str, Any]) -> None:
    """See that an event is one of the SDK's, with all that its class needs.

    The SDK itself takes any event, as some class.
    """
    if session := event.get("session"):
        form = session["audio"]["input"]["format"]
        if form.get("rate") == 16_000:  # an extension
            form["rate"] = 24_000
        RealtimeTranscriptionSessionCreateRequest.model_validate(session)
    _TYPES[event["type"]].model_validate(event)


class Client:
    """A connection, and all events that it has brought."""

    def __init__(self, socket: Connection):
        self.socket, self.events = socket, list[dict[str, Any]]()

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def read(self) -> dict[str, Any]:
        """Return the next event."""
        event = json.loads(self.socket.recv(TIMEOUT))
        check_event(json.loads(json.dumps(event)))
        self.events.append(event)
        return event

    def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of a type; no error may come before."""
        while (event := self.read())["type"] != kind:
            assert event["type"] != "error", event
        return event

    def asked(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        """Send a message, and return the next event of a type."""
        self.send(kind, **fields)
        return self.until(answer)

    def update(self, **audio: Any) -> dict[str, Any]:
        """Change the session's sound, and return its event."""
        session = {"type": "transcription", "audio": {"input": audio}}
        return self.asked("session.update", "session.updated", session=session)

    def refused(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a message, and return the error that it is answered with."""
        self.send(kind, event_id="mine", **fields)
        while (event := self.read())["type"] != "error":
            pass
        assert event["error"]["event_id"] == "mine"
        return event["error"]

    def append(self, content: bytes, size: int = 4800) -> None:
        for piece in pieces(content, size):
            self.send("input_audio_buffer.append", audio=piece)

    def commit(self) -> list[dict[str, Any]]:
        """Commit, and return all events until the item is done."""
        first = len(self.events)
        self.asked("input_audio_buffer.commit", "conversation.item.done")
        return self.events[first:]

    def transcript(self, clip: Path, *encoding: Any) -> str:
        """Speak a clip as an item, and return its text."""
        self.append(sound(clip, *encoding))
        return self.commit()[-1]["item"]["content"][0]["transcript"]


@contextmanager
def connected(port: int, **options: Any) -> Iterator[Client]:
    """Connect, and read `session.created`; options are those of `connect`."""
    address = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
    with connect(address, max_size=None, **options) as socket:
        client = Client(socket)
        assert client.read()["type"] == "session.created"
        yield client
