"""Mistral's protocol of live transcription, as the package mistralai and what is built on it speak.

A client that flushes gets `transcription.done` with the words since the last one, as agents with a
voice detector of their own need it: they take it for what somebody has said. The end of the sound
is answered in the same way, and then the connection is closed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket

from ...escaping import quoted
from ...runtime.live.events import (
    StreamWarning,
    TurnEagerEnd,
    TurnEnd,
    TurnResume,
    TurnStart,
)
from ...runtime.text.segments import Segment
from ...runtime.tokens import Token
from ..api_error import ApiError
from ..engines import Engines
from ..rest.form import MISTRAL_PATH as PATH
from .connection import POLICY, Connection, sound_of
from .dialect import Dialect
from .mistral_session import MistralSession, error_event, session_of
from .routes import live_router, serve_dialect
from .speech import Flushed, LiveSpeech, SpeechEvent, SpeechOptions

# In one message, half an hour of speech: clients take messages of 1 MiB, as websockets does
MOST_SEGMENTS = 5_000
MOST_WARNINGS = 20  # of a session
TURNS = {
    TurnStart: "turn.start",
    TurnEagerEnd: "turn.eager_end",
    TurnResume: "turn.resume",
    TurnEnd: "turn.end",
}


class MistralRealtime(Dialect):
    """Mistral's protocol, as one client speaks it."""

    def __init__(
        self, connection: Connection, engines: Engines, names: Sequence[str], model: str | None
    ):
        """Begin with a client.

        Args:
            connection: of the client.
            engines: for its speech.
            names: of the model, the server's own first.
            model: that the client asks for; None for the server's.
        """
        super().__init__(connection, engines, names)
        self.model = names[0] if model is None else model
        self._transcriber = engines.engines[0].transcriber
        self._asked = dict[str, Any]()  # fields of the session
        self._session, self._request_id = MistralSession(), uuid4().hex
        self._heard: LiveSpeech | None = None
        self._has_sound = self._has_ended = self._is_in_turn = False
        self._last_flush: int | None = None  # its number, if nothing was heard since
        self._texts, self._segments = list[str](), list[dict[str, Any]]()  # since the last `done`
        self._warnings = list[str]()
        self._num_told = 0  # seconds of sound, in the `usage` of all `done`

    # What the client says
    def greet(self) -> None:
        """Send `session.created`, or an error if it asks for another model."""
        if self.model not in self.names:
            known = ", ".join(self.names)
            message = f"model {quoted(self.model)}: expected one of {known}"
            self.end_connection(POLICY, ApiError(message, status=404, code="model_not_found"))
            return
        self._send("session.created", session=self._described())

    async def take(self, message: dict[str, Any]) -> None:
        """Take a client's message.

        Raises:
            ApiError, VoxtralOnnxError: what is wrong with it.
        """
        kind = message["type"]
        if kind not in (
            "session.update",
            *(f"input_audio.{w}" for w in ("append", "flush", "end")),
        ):
            raise ApiError(
                f"type {quoted(kind)}: expected session.update, input_audio.append, "
                "input_audio.flush or input_audio.end"
            )
        if self._has_ended:
            raise ApiError(f"{kind}: the sound of this session has ended; open another connection")
        if kind == "session.update":
            await self._update(message.get("session"))
        elif kind == "input_audio.append":
            await self._append(sound_of(message))
        elif kind == "input_audio.flush":
            await self._flush()
        else:
            await self._end()

    def options(self) -> SpeechOptions:
        """Return what the client has asked for."""
        return self._session.options

    async def _update(self, asked: Any) -> None:
        if not isinstance(asked, dict):
            raise ApiError(f"session.update: expected a session, got {quoted(asked)}")
        if self._has_sound:
            raise ApiError(
                "session.update: expected before the first sound, got it after; open another "
                "connection"
            )
        merged = self._asked | asked
        self._session = await asyncio.to_thread(session_of, merged, self._transcriber)
        self._asked = merged
        self._warnings = self._session.warnings(self._transcriber)
        told = {"warnings": self._warnings} if self._warnings else {}
        self._send("session.updated", session=self._described(), **told)

    async def _append(self, content: bytes) -> None:
        self._has_sound = True
        if content:
            self._last_flush = None
            speech = self._heard = await self.opened()
            await speech.append(content)

    async def _flush(self) -> None:
        if self.speech:
            self._last_flush = await self.speech.flush()
        else:
            self._done()

    async def _end(self) -> None:
        self._has_ended = True
        if self.speech:
            await self.speech.finish()
        else:
            self.end_speech()

    # What it is told
    def hear(self, event: SpeechEvent) -> None:
        """Send what the client is to know of an event of its speech."""
        if isinstance(event, Token):
            if text := self._following(event.text, self._texts):
                self._texts.append(text)
                self._send("transcription.text.delta", text=text)
        elif isinstance(event, Segment):
            if text := self._following(event.text, self._segments):
                segment = {"text": text, "start": round(event.start, 3), "end": round(event.end, 3)}
                self._segments.append(segment)
                self._send("transcription.segment", **segment)
        elif isinstance(event, Flushed):
            is_last = self._has_ended and event.number == self._last_flush
            if not is_last:  # else the end follows at once, and its `done` has these words
                self._done()
        elif isinstance(event, StreamWarning):
            if event.text not in self._warnings and len(self._warnings) < MOST_WARNINGS:
                self._warnings.append(event.text)
        elif isinstance(event, TurnStart | TurnEagerEnd | TurnResume | TurnEnd):
            self._hear_turn(event)

    def _hear_turn(self, event: TurnStart | TurnEagerEnd | TurnResume | TurnEnd) -> None:
        """Send an event of a turn, which begins with a word; a sound without any is none."""
        self._is_in_turn = self._is_in_turn or isinstance(event, TurnStart)
        if self._is_in_turn:
            ending = {"end_reason": event.reason} if isinstance(event, TurnEnd) else {}
            self._send(TURNS[type(event)], time_s=event.time, **ending)
        if isinstance(event, TurnEnd):
            self._is_in_turn = False

    def end_speech(self) -> None:
        """Send the last words, if the client has ended its sound, and close the connection."""
        if self._has_ended:  # else the server ends it, and says so
            self._done()
            self.connection.close()

    def refuse(self, error: ApiError, message: dict[str, Any] | None) -> None:
        """Send an error."""
        self.connection.send(error_event(error))

    def _done(self) -> None:
        """Send the words since the last time."""
        seconds = math.ceil(self._heard.seconds) if self._heard else 0
        usage = {"prompt_audio_seconds": seconds - self._num_told}
        self._num_told = seconds
        warnings, segments = list(self._warnings), self._segments
        if len(segments) > MOST_SEGMENTS:
            warnings.append(f"segments: too many for one message, {len(segments)}; each was sent")
            segments = []
        told = {"warnings": warnings} if warnings else {}
        self._send(
            "transcription.done",
            model=self.model,
            text="".join(self._texts),
            usage=usage,
            language=None,
            segments=[{"type": "transcription_segment", **each} for each in segments],
            **told,
        )
        self._texts, self._segments = [], []

    def _following(self, text: str, before: Sequence[Any]) -> str:
        """Return a text as it follows others, without a blank before the first."""
        return text if before else text.removeprefix(" ")

    def _described(self) -> dict[str, Any]:
        fields = self._session.described(self._transcriber)
        return {"request_id": self._request_id, "model": self.model, **fields}

    def _send(self, kind: str, **fields: Any) -> None:
        self.connection.send({"type": kind, **fields})


class MistralRoute:
    """The route of Mistral's protocol."""

    def __init__(self, engines: Engines, names: Sequence[str]):
        """Make it, for a model with these names, the server's own first."""
        self.engines, self.names = engines, names
        self.router = live_router(PATH, self.serve)

    async def serve(self, socket: WebSocket) -> None:
        """Serve a client until it leaves."""
        model = socket.query_params.get("model")
        await serve_dialect(
            socket, lambda connection: MistralRealtime(connection, self.engines, self.names, model)
        )
