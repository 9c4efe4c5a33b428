"""vLLM's dialect of live speech: 16 kHz, a `commit` to begin, and one with `final` to end.

Source: vLLM 0.33, `entrypoints/openai/realtime`; segments as in its pull request 50783.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ...escaping import quoted
from ...runtime.live.events import StreamWarning
from ...runtime.text.segments import Segment
from ...runtime.tokens import Token
from ..api_error import ApiError
from ..engines import Engines
from .connection import INVALID_EVENT, Connection, sound_of
from .dialect import Dialect
from .fields import fault_of
from .sound import SoundFormat
from .speech import SpeechEvent, SpeechOptions

SOUND = SoundFormat("s16le", 16_000)
UPDATE, APPEND, COMMIT = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
)


class _Fields(BaseModel):
    """The fields of a message; `event_id` is taken, as some clients number what they send."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: str
    event_id: str | None = None


class SessionUpdate(_Fields):
    """The fields of `session.update`."""

    model: str
    temperature: Literal[0] = 0  # the likeliest text
    language: str | None = None  # ignored: the model detects it
    timestamp_granularities: list[Literal["segment"]] = []
    every_token: bool = False  # an extension: a delta for each token, as vLLM sends them


class Commit(_Fields):
    """The fields of `input_audio_buffer.commit`."""

    final: bool = False


Message = TypeVar("Message", bound=_Fields)


class VllmRealtime(Dialect):
    """A client that speaks vLLM's dialect.

    Text comes a word at a time, as soon as the token after it shows that it is whole; vLLM sends
    all tokens, most of which have no text.
    """

    def __init__(self, connection: Connection, engines: Engines, names: Sequence[str]):
        super().__init__(connection, engines, names)
        self._model: str | None = None  # as the client calls it
        self._every_token = self._with_segments = False
        self._begin()

    def _begin(self) -> None:
        """Begin an utterance."""
        self._text, self._word = "", ""  # sent; and not yet
        self._segments, self._num_tokens = list[dict[str, Any]](), 0
        self._is_whole = False  # the client has ended it

    def greet(self) -> None:
        """Send `session.created`."""
        self.connection.send(session_created())

    def options(self) -> SpeechOptions:
        """Return 16 kHz and the server's delay."""
        return SpeechOptions(SOUND)

    async def take(self, message: dict[str, Any]) -> None:
        """Take a client's message."""
        kind = message["type"]
        if kind == UPDATE:
            self._update(message)
        elif kind == APPEND:
            sound = sound_of(message)
            if not sound:
                raise ApiError(f"{APPEND}: the sound is empty", code="invalid_audio")
            await (await self.opened()).append(sound)
        elif kind == COMMIT:
            commit = checked(message, Commit)
            if self._model is None:
                raise ApiError(
                    f"{COMMIT}: expected {UPDATE} with the model before it",
                    code="model_not_validated",
                )
            if commit.final:
                await self._end()
        else:
            raise ApiError(
                f"{quoted(kind)}: expected one of {UPDATE}, {APPEND}, {COMMIT}",
                code="unknown_event",
            )

    def _update(self, message: dict[str, Any]) -> None:
        if isinstance(message.get("session"), dict):
            raise ApiError(
                f"{UPDATE}: `session` is of OpenAI's dialect, and this connection speaks vLLM's "
                "since its first message; connect anew",
                code=INVALID_EVENT,
            )
        update = checked(message, SessionUpdate)
        if update.model not in self.names:
            raise ApiError(
                f"model {quoted(update.model)}: expected one of {', '.join(self.names)}",
                code="model_not_found",
            )
        self._model, self._every_token = update.model, update.every_token
        self._with_segments = bool(update.timestamp_granularities)
        warnings = ["language: ignored, the model detects the language itself"]
        if self._with_segments or update.language:
            answer = {"type": "session.updated", "model": update.model}
            granularities = list(update.timestamp_granularities)
            answer |= {"timestamp_granularities": granularities} if granularities else {}
            answer |= {"warnings": warnings} if update.language else {}
            self.connection.send(answer)

    async def _end(self) -> None:
        """End the utterance: its last words follow."""
        self._is_whole = True
        if self.speech is None:
            self.end_speech()  # nothing was said
            return
        await self.finish_speech()

    def hear(self, event: SpeechEvent) -> None:
        """Send the words of a token, and the segment that it closes."""
        if isinstance(event, Token):
            self._num_tokens += 1
            if self._every_token:
                self._send_word()  # held until the client asked for every token
                self._send(event.text)
            elif event.text and self._word and not event.text[0].isspace():
                self._word += event.text
            else:
                self._send_word()
                self._word = event.text
        elif isinstance(event, Segment) and self._with_segments:
            segment = {"text": event.text, "end": round(event.end, 3)}
            self._segments.append(segment)
            self._send_word([segment])
        elif isinstance(event, StreamWarning):
            pass  # of the sound's level or the pace: for a speaker who sees a screen

    def _send_word(self, segments: Sequence[dict[str, Any]] = ()) -> None:
        word, self._word = self._word, ""
        if word or segments:
            self._send(word, segments)

    def _send(self, delta: str, segments: Sequence[dict[str, Any]] = ()) -> None:
        self._text += delta
        message = {"type": "transcription.delta", "delta": delta}
        self.connection.send(message | ({"segments": segments} if segments else {}))

    def end_speech(self) -> None:
        """Send the last word, and all of the utterance."""
        self._send_word()
        if not self._is_whole:  # the server ends it, and says so
            return
        transcriber = self.engines.engines[0].transcriber
        left = transcriber.manifest.streaming.left_pad_tokens
        prompt = 1 + left + transcriber.num_delay_tokens if self._num_tokens else 0
        usage = {"prompt_tokens": prompt, "completion_tokens": self._num_tokens}
        usage["total_tokens"] = sum(usage.values())
        done = {"type": "transcription.done", "text": self._text, "usage": usage}
        if self._with_segments:
            done["segments"] = self._segments
        self.connection.send(done)
        self._begin()

    def refuse(self, error: ApiError, message: dict[str, Any] | None) -> None:
        """Send an error."""
        self.connection.send(error_event(error))


def session_created() -> dict[str, Any]:
    """Return vLLM's first message."""
    identity, created = f"sess-{uuid.uuid4().hex}", int(time.time())
    return {"type": "session.created", "id": identity, "created": created}


def error_event(error: ApiError) -> dict[str, Any]:
    """Return an error as clients read it: a text, and a code beside it."""
    code = error.code or ("processing_error" if error.status >= 500 else INVALID_EVENT)
    return {"type": "error", "error": str(error), "code": code}


def checked(message: dict[str, Any], kind: type[Message]) -> Message:
    """Return a client's message as a structure.

    Raises:
        ApiError: a field is unknown or missing, or has a value that it cannot have.
    """
    try:
        return kind.model_validate(message)
    except ValidationError as error:
        fault = fault_of(error, kind)
        raise ApiError(f"{message['type']}: {fault}", code=INVALID_EVENT) from error
