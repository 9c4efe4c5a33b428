"""The session of OpenAI's Realtime API: what a client may set, and what it is told of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...escaping import quoted
from ...runtime.live.turns import TurnRules
from ..api_error import ApiError
from .fields import fault_of
from .sound import SoundFormat
from .speech import SpeechOptions

DELAYS = {"minimal": 80, "low": 240, "medium": 480, "high": 960, "xhigh": 2400}  # milliseconds
PCM_RATES = (24_000, 16_000)  # Hz; OpenAI's own first
TELEPHONE_RATE = 8_000  # Hz, of G.711
LOUDEST_LEVEL = 12.0  # decibels above the noise, for a threshold of 1; 0.5 is the server's own
MOST_MILLISECONDS = 60_000
# Fields of turn detection that are about answers, of which this session has none
ABOUT_ANSWERS = ("create_response", "interrupt_response", "idle_timeout_ms")


class _Given(BaseModel):
    """Fields as a client gives them: null stands for what a field is at the beginning."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values


class AudioFormat(_Given):
    """The format of raw mono samples."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = None


class ServerVad(_Given):
    """The end of a turn by the sound and by the model's own words."""

    type: Literal["server_vad"]
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    prefix_padding_ms: int = Field(default=300, ge=0, le=MOST_MILLISECONDS)
    silence_duration_ms: int = Field(default=500, ge=1, le=MOST_MILLISECONDS)
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: int | None = None


class TranscriptionFields(_Given):
    """The wishes of a client for its text."""

    model: str | None = None
    language: str | None = None
    languages: list[str] = []
    keywords: list[str] = []
    prompt: str = ""
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class AudioInput(_Given):
    """The sound that comes in, and the turns in it."""

    format: AudioFormat = AudioFormat()
    transcription: TranscriptionFields = TranscriptionFields()
    noise_reduction: None = None
    turn_detection: ServerVad | None = None


class Audio(_Given):
    """The sound, of which there is only what comes in."""

    input: AudioInput = AudioInput()


class Session(_Given):
    """All that a client may set."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()
    include: list[Literal["item.input_audio_transcription.logprobs"]] = []

    @property
    def sound(self) -> SoundFormat:
        """Return the format of the sound."""
        form = self.audio.input.format
        if form.type == "audio/pcm":
            return SoundFormat("s16le", form.rate or PCM_RATES[0])
        return SoundFormat("mulaw" if form.type == "audio/pcmu" else "alaw", TELEPHONE_RATE)

    @property
    def options(self) -> SpeechOptions:
        """Return what a stream begins with."""
        said, turns = self.audio.input.transcription, self.audio.input.turn_detection
        return SpeechOptions(
            self.sound,
            DELAYS[said.delay] if said.delay else None,
            tuple(word for word in said.keywords if word.strip()),
            turns
            and TurnRules(
                min_silence=turns.silence_duration_ms / 1000, level=LOUDEST_LEVEL * turns.threshold
            ),
        )

    @property
    def warnings(self) -> list[str]:
        """Return a sentence for each field that was taken and is not followed."""
        said, turns = self.audio.input.transcription, self.audio.input.turn_detection
        found = [
            f"session.audio.input.transcription.{name}: ignored, the model detects the language "
            "itself"
            for name in ("language", "languages")
            if getattr(said, name)
        ]
        return found + [
            f"session.audio.input.turn_detection.{name}: ignored, a transcription has no responses"
            for name in ABOUT_ANSWERS
            if turns and getattr(turns, name) is not None
        ]

    def updated(self, changes: Any, names: Sequence[str]) -> Session:
        """Return the session after a client's changes: what they leave out stays as it is.

        Args:
            changes: the field `session` of the client's message.
            names: of the model.

        Raises:
            ApiError: something in it is unknown, or cannot be followed.
        """
        _refuse_others(changes)
        merged = _merged(self.model_dump(exclude_none=True), changes)
        try:
            session = Session.model_validate(merged)
        except ValidationError as error:
            fault = fault_of(error, Session, "session")
            code = "unknown_parameter" if fault.is_unknown else "invalid_value"
            raise ApiError(f"{fault}", param=fault.path, code=code) from error
        _check(session, names)
        return session

    def shown(self, session_id: str, model: str) -> dict[str, Any]:
        """Return the session as events show it.

        Args:
            session_id: its id.
            model: the name of the model, unless the client has chosen another.
        """
        values = self.model_dump()
        heard = values["audio"]["input"]
        heard["format"] = {"type": heard["format"]["type"]}
        if heard["format"]["type"] == "audio/pcm":
            heard["format"]["rate"] = self.sound.rate
        heard["transcription"]["model"] = heard["transcription"]["model"] or model
        values["include"] = values["include"] or None
        return {"id": session_id, "object": "realtime.transcription_session", **values}


def new_id(kind: str) -> str:
    """Return an id that nothing else has."""
    return f"{kind}_{secrets.token_hex(10)}"


def session_created(session_id: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the event with which a connection begins.

    Args:
        session_id: of the connection.
        names: of the model, the server's own first.
    """
    session = Session().shown(session_id, names[0])
    return {"type": "session.created", "event_id": new_id("event"), "session": session}


def error_event(error: ApiError, event_id: str | None = None) -> dict[str, Any]:
    """Return an error as clients read it, with the id of the message that has caused it."""
    fields = {**error.body["error"], "event_id": event_id}
    return {"type": "error", "event_id": new_id("event"), "error": fields}


def _merged(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return fields with changes to them; of an object of another type nothing stays."""
    merged = dict(before)
    for name, value in changes.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            is_alike = value.get("type") in (None, old.get("type"))
            value = _merged(old if is_alike else {}, value)
        merged[name] = value
    return merged


def _refuse_others(changes: Any) -> None:
    """Refuse what other sessions of OpenAI's API have.

    Raises:
        ApiError: this is no session of transcription, or it wants what only those have.
    """
    # What it is
    if not isinstance(changes, dict):
        raise refused("session", f"expected an object, got {quoted(changes)}")
    if changes.get("type") == "realtime":
        raise refused(
            "session.type", "expected transcription, got 'realtime': this server does not answer"
        )

    # What it wants
    heard: Any = changes
    for name in ("audio", "input"):
        heard = heard.get(name) if isinstance(heard, dict) else None
    if not isinstance(heard, dict):
        return
    path = "session.audio.input"
    turns = heard.get("turn_detection")
    if isinstance(turns, dict) and turns.get("type") == "semantic_vad":
        raise refused(
            f"{path}.turn_detection.type",
            "expected server_vad, got 'semantic_vad': no model here tells by the meaning whether "
            "somebody has finished",
        )
    if heard.get("noise_reduction") is not None:
        raise refused(
            f"{path}.noise_reduction", "expected null: the model hears the sound as it comes"
        )
    if "transcription" in heard and heard["transcription"] is None:
        raise refused(
            f"{path}.transcription", "expected an object, got null, which would leave nothing to do"
        )


def _check(session: Session, names: Sequence[str]) -> None:
    """Refuse values that exclude each other, or that this server does not have.

    Raises:
        ApiError: some are such.
    """
    form, said = session.audio.input.format, session.audio.input.transcription
    rates = PCM_RATES if form.type == "audio/pcm" else (TELEPHONE_RATE,)
    if form.rate not in (None, *rates):
        expected = " or ".join(map(str, rates))
        raise refused(
            "session.audio.input.format.rate",
            f"expected {expected} for {form.type}, got {quoted(form.rate)}",
        )
    path = "session.audio.input.transcription"
    if said.prompt.strip():
        raise refused(
            f"{path}.prompt", "the model takes none; words that it should know are `keywords`"
        )
    if said.model and said.model not in names:
        raise ApiError(
            f"{path}.model: expected one of {', '.join(names)}, got {quoted(said.model)}",
            param=f"{path}.model",
            code="model_not_found",
        )


def refused(param: str, reason: str) -> ApiError:
    """Return an error of one field."""
    return ApiError(f"{param}: {reason}", param=param, code="invalid_value")
