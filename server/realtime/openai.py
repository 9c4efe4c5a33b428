"""OpenAI's Realtime API for transcription, as its clients speak it since it left its beta."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ...errors import AudioError, UsageError
from ...escaping import quoted
from ...runtime.audio.container.encodings import sample_bytes
from ...runtime.live.events import SpeechStart, StreamWarning, TurnEnd
from ...runtime.tokens import Token
from ..api_error import ApiError
from ..engines import Engines
from ..rest.answers import json_of, logprobs, usage
from .connection import INVALID_EVENT, Connection, sound_of
from .dialect import Dialect
from .openai_session import Session, error_event, new_id, refused, session_created
from .speech import Flushed, SpeechEvent, SpeechOptions

# What a client may send, and the field that it has besides its id
MESSAGES = {
    "session.update": "session",
    "input_audio_buffer.append": "audio",
    "input_audio_buffer.commit": None,
    "input_audio_buffer.clear": None,
}
# Fields by which clients of vLLM's dialect show themselves
OF_VLLM = {("session.update", "model"), ("input_audio_buffer.commit", "final")}
BETA = "transcription_session.update"
LONGEST_ID = 512  # characters, as OpenAI has it
TRANSCRIPTION = "conversation.item.input_audio_transcription"
# What a stream begins with, and where the client says it
OF_STREAMS = {
    "sound": "format",
    "delay_ms": "transcription.delay",
    "hotwords": "transcription.keywords",
    "turns": "turn_detection",
}


@dataclass(eq=False, slots=True)
class Item:
    """A part of the sound between two commits, and its text."""

    start: float  # seconds of all sound that came before
    id: str = field(default_factory=lambda: new_id("item"))
    speech_start: float | None = None  # seconds, where somebody has begun to speak
    seconds: float = 0.0  # of sound, when it is committed
    previous_id: str | None = None  # of the one committed before, when it is
    is_committed: bool = False
    is_cleared: bool = False  # nobody wants its words
    texts: list[str] = field(default_factory=list)  # of its deltas
    held: list[Token] = field(default_factory=list)  # of the next delta
    tokens: list[Token] = field(default_factory=list)  # of all its deltas
    warnings: list[str] = field(default_factory=list)

    @property
    def transcript(self) -> str:
        """Return the words that have come."""
        return "".join(self.texts)

    def shown(self, transcript: str | None) -> dict[str, Any]:
        """Return the item as events show it; the transcript is null before it is whole."""
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": transcript}],
        }


class OpenAIRealtime(Dialect):
    """A client's session of transcription.

    All its items are of one stream, into which a commit puts a flush, so that the words of an item
    come at once. Of `_items` the first is that whose words come, and the last is that whose sound
    comes; between them are those that wait for their last words.
    """

    def __init__(
        self,
        connection: Connection,
        engines: Engines,
        names: Sequence[str],
        session_id: str | None = None,
    ):
        """Begin a session.

        Args:
            connection: of the client.
            engines: for its speech.
            names: of the model, the server's own first.
            session_id: that the client was told already, if it was.
        """
        super().__init__(connection, engines, names)
        self.session_id = session_id or new_id("sess")
        self.session, self._delay_warning = Session(), None
        self.seconds, self._stream_start = 0.0, 0.0  # of sound: all, and before this stream
        self._items, self._last_id = deque([Item(0.0)]), None

    def greet(self) -> None:
        """Send `session.created`."""
        self.connection.send(session_created(self.session_id, self.names))

    def options(self) -> SpeechOptions:
        """Return what the session says."""
        return self.session.options

    # What the client says
    async def take(self, message: dict[str, Any]) -> None:
        """Take one of MESSAGES.

        Raises:
            ApiError: what is wrong with it.
        """
        _check_fields(message)
        match message["type"]:
            case "session.update":
                await self._update(message)
            case "input_audio_buffer.append":
                await self._append(sound_of(message))
            case "input_audio_buffer.commit":
                await self._commit()
            case _:
                await self._clear()

    async def _update(self, message: dict[str, Any]) -> None:
        """Change the session, or leave it as it is with an error."""
        session = self.session.updated(message.get("session"), self.names)
        before, options = self.session.options, session.options
        changed = [name for name in OF_STREAMS if getattr(options, name) != getattr(before, name)]
        if changed:
            warning = await self._require_possible(options)
            await self._end_stream(changed)
            self._delay_warning = warning
        self.session = session

        warnings = [*session.warnings, *([self._delay_warning] if self._delay_warning else [])]
        self._send(
            "session.updated",
            session=session.shown(self.session_id, self.names[0]),
            **({"warnings": warnings} if warnings else {}),
        )

    async def _require_possible(self, options: SpeechOptions) -> str | None:
        """Refuse what the model does not have; return what is to be said of the delay."""
        check, warning = self.engines.check_stream, None
        for name, given in (
            ("delay_ms", (options.delay_ms, ())),
            ("hotwords", (None, options.hotwords)),
        ):
            try:
                warning = await asyncio.to_thread(check, *given) or warning
            except UsageError as error:
                raise refused(f"session.audio.input.{OF_STREAMS[name]}", str(error)) from error
        return warning

    async def _end_stream(self, changed: Sequence[str]) -> None:
        """End the stream, so that the next one begins with other options.

        Raises:
            ApiError: it holds sound that belongs to an item to come.
        """
        if self.speech is None:
            return
        if self.seconds > self._items[-1].start:
            raise refused(
                f"session.audio.input.{OF_STREAMS[changed[0]]}",
                "cannot change while the buffer holds sound; commit or clear it first",
            )
        await self.finish_speech()

    async def _append(self, content: bytes) -> None:
        if not content:
            return
        if self.speech is None:
            self._stream_start = self.seconds
        speech, sound = await self.opened(), self.session.sound
        self.seconds += len(content) / (sound.rate * sample_bytes(sound.encoding))
        await speech.append(content)

    async def _commit(self) -> None:
        """Let the words of the buffer come, as an item.

        Raises:
            ApiError: it is empty, or ends inside a sample, which is left out.
        """
        if self.speech is None or self.seconds <= self._items[-1].start:
            raise ApiError(
                "input_audio_buffer.commit: the buffer is empty; append sound first",
                code="input_audio_buffer_commit_empty",
            )
        self._close_item(self.seconds, self.seconds - self._items[-1].start)
        try:
            await self.speech.flush()
        except AudioError as error:
            raise ApiError(f"{error}", param="audio", code="invalid_audio") from error

    async def _clear(self) -> None:
        """Drop the words of the buffer that have not come yet."""
        if self.speech and self.seconds > self._items[-1].start:
            self._stop_item(self._items[-1], self.seconds)
            self._items[-1].is_cleared = True
            self._items.append(Item(self.seconds))
            with suppress(AudioError):  # of a sample that is not complete, which is dropped too
                await self.speech.flush()
        self._send("input_audio_buffer.cleared")

    # What becomes of the speech
    def hear(self, event: SpeechEvent) -> None:
        """Send the words, and what a turn's beginning and end make of them."""
        match event:
            case Token():
                self._write(self._items[0], event)
            case Flushed():
                item = self._items.popleft()
                if not item.is_cleared:
                    self._complete(item)
            case SpeechStart():
                self._start_item(self._stream_start + event.time)
            case TurnEnd() if not self.is_broken_off:  # else the server ends it, not the speaker
                self._end_item(self._stream_start + event.time)
            case StreamWarning():
                self._items[0].warnings.append(event.text)
            case _:  # segments, pauses: clients of this protocol do not know them
                pass

    def end_speech(self) -> None:
        """Send nothing: what was committed is complete, and of the rest the server says why."""

    def _write(self, item: Item, token: Token) -> None:
        """Send what a token adds to an item."""
        if item.is_cleared:
            return
        if token.text or token.token_id >= self.engines.tokenizer.first_text:
            item.held.append(token)
        text = token.text if item.texts else token.text.lstrip(" ")
        if not text:
            return
        item.texts.append(text)
        self._send(
            f"{TRANSCRIPTION}.delta",
            item_id=item.id,
            content_index=0,
            delta=text,
            **self._logprobs(item.held),
        )
        item.tokens += item.held
        item.held.clear()

    def _start_item(self, time: float) -> None:
        """Tell that somebody has begun to speak, unless the client has committed that already."""
        rules = self.session.audio.input.turn_detection
        assert rules
        item = next((each for each in reversed(self._items) if each.start <= time), self._items[0])
        if item.is_committed or item.is_cleared:
            return
        item.speech_start = max(item.start, time - rules.prefix_padding_ms / 1000)
        self._send(
            "input_audio_buffer.speech_started",
            audio_start_ms=round(1000 * item.speech_start),
            item_id=item.id,
        )

    def _end_item(self, time: float) -> None:
        """Commit an item at the end of a turn, whose words have all come."""
        item, rules = self._items[0], self.session.audio.input.turn_detection
        assert rules
        is_closed = item.is_committed or item.is_cleared  # by the client: a flush completes it
        if is_closed or (item.speech_start is None and not item.texts):
            return
        start = item.start if item.speech_start is None else item.speech_start
        end = max(start, min(self.seconds, time + rules.silence_duration_ms / 1000))
        self._close_item(end, end - start)
        self._complete(self._items.popleft())

    def _stop_item(self, item: Item, end: float) -> None:
        """Tell that an item has no more speech, if its speech has begun."""
        if item.speech_start is not None:
            self._send(
                "input_audio_buffer.speech_stopped",
                audio_end_ms=round(1000 * end),
                item_id=item.id,
            )

    def _close_item(self, end: float, seconds: float) -> None:
        """Tell that the last item has all its sound, of so many seconds, and begin another."""
        item = self._items[-1]
        self._stop_item(item, end)
        item.previous_id, self._last_id = self._last_id, item.id
        item.seconds, before = seconds, {"previous_item_id": item.previous_id}
        self._items.append(Item(end))
        self._send("input_audio_buffer.committed", item_id=item.id, **before)
        self._send("conversation.item.added", item=item.shown(None), **before)
        item.is_committed = True

    def _complete(self, item: Item) -> None:
        """Tell that an item has all its words."""
        self._send(
            f"{TRANSCRIPTION}.completed",
            item_id=item.id,
            content_index=0,
            transcript=item.transcript,
            usage=json_of(usage(item.seconds)),
            **self._logprobs(item.tokens),
            **({"warnings": item.warnings} if item.warnings else {}),
        )
        self._send(
            "conversation.item.done",
            item=item.shown(item.transcript),
            previous_item_id=item.previous_id,
        )

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Return the field that has them, if the client asks for it."""
        if not self.session.include:
            return {}
        return {"logprobs": [json_of(each) for each in logprobs(tokens, self.engines.tokenizer)]}

    # What goes wrong
    def refuse(self, error: ApiError, message: dict[str, Any] | None) -> None:
        """Send an error, with the id of the message that has caused it."""
        event_id = (message or {}).get("event_id")
        said = event_id if isinstance(event_id, str) and len(event_id) <= LONGEST_ID else None
        self.connection.send(error_event(error, said))

    def end_connection(self, code: int, error: ApiError) -> None:
        """Send of each item that is not complete that it has failed, and then the error."""
        for item in self._items:
            if item.is_committed or item.texts:
                fields = error.body["error"]
                self._send(
                    f"{TRANSCRIPTION}.failed", item_id=item.id, content_index=0, error=fields
                )
        super().end_connection(code, error)

    def _send(self, kind: str, **fields: Any) -> None:
        self.connection.send({"type": kind, "event_id": new_id("event"), **fields})


def _check_fields(message: dict[str, Any]) -> None:
    """Refuse messages and fields that this protocol does not have.

    Raises:
        ApiError: it is such a message, or has such a field.
    """
    # What it is
    kind = message["type"]
    if kind == BETA:
        raise ApiError(
            f"{BETA}: of OpenAI's beta, which has ended; send session.update with a session of "
            'type "transcription"',
            param="type",
            code=INVALID_EVENT,
        )
    if kind not in MESSAGES:
        raise ApiError(
            f"type: expected one of {', '.join(MESSAGES)}, got {quoted(kind)}",
            param="type",
            code=INVALID_EVENT,
        )

    # What it has
    own = MESSAGES[kind]
    for name in message:
        if (kind, name) in OF_VLLM:
            raise ApiError(
                f"{name}: {kind} has it in vLLM's dialect, and this connection speaks OpenAI's",
                param=name,
                code=INVALID_EVENT,
            )
        if name not in ("type", "event_id", own):
            raise ApiError(
                f"{quoted(name)}: unknown in {kind}",
                param=name[:LONGEST_ID],
                code="unknown_parameter",
            )
    event_id = message.get("event_id")
    if event_id is not None and not (isinstance(event_id, str) and len(event_id) <= LONGEST_ID):
        raise refused(
            "event_id", f"expected text of up to {LONGEST_ID} characters, got {quoted(event_id)}"
        )
    if own and own not in message:
        raise refused(own, f"missing in {kind}")
