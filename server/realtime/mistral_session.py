"""Read what clients of Mistral's protocol ask of a session before they send sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...runtime.delay import delay_ms, untrained_delay
from ...runtime.live.turns import TurnRules
from ...runtime.transcriber import Transcriber
from ..api_error import ApiError
from .fields import fault_of
from .sound import LEAST_RATE, MOST_RATE, SoundFormat
from .speech import SpeechOptions

MOST_SILENCE_MS = 60_000
# Thresholds on a probability that the hosted model gives; these are its defaults
THRESHOLDS = {"start_threshold": 0.5, "eager_end_threshold": 0.5, "end_threshold": 0.33}
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_NO_SPEAKERS = "the model does not tell speakers apart"


class AudioFormat(BaseModel):
    """The format of the sound that is sent: raw samples, mono."""

    model_config = _STRICT

    encoding: Literal[
        "pcm_s16le", "pcm_s32le", "pcm_f16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw"
    ] = "pcm_s16le"
    sample_rate: int = Field(default=16_000, ge=LEAST_RATE, le=MOST_RATE)

    @property
    def sound(self) -> SoundFormat:
        """Return the same in the words of `encodings`."""
        return SoundFormat(self.encoding.removeprefix("pcm_"), self.sample_rate)


class TurnDetection(BaseModel):
    """When a turn ends."""

    model_config = _STRICT

    start_threshold: float = THRESHOLDS["start_threshold"]
    eager_end_threshold: float = THRESHOLDS["eager_end_threshold"]
    end_threshold: float = THRESHOLDS["end_threshold"]
    min_silence_ms: int = Field(default=500, ge=1, le=MOST_SILENCE_MS)
    end_timeout_ms: int = Field(default=round(1000 * TurnRules().timeout), ge=1, le=MOST_SILENCE_MS)

    @property
    def rules(self) -> TurnRules:
        """Return the same as the runtime takes it."""
        return TurnRules(self.min_silence_ms / 1000, self.end_timeout_ms / 1000)


class MistralSession(BaseModel):
    """A session's settings; what the client has not set is as it is without it."""

    model_config = _STRICT

    audio_format: AudioFormat = AudioFormat()
    target_streaming_delay_ms: int | None = None  # None: the server's
    diarize: bool = False
    context_bias: list[str] = []
    language: str | None = None
    speaker_references: dict[str, Any] = {}
    turn_detection: TurnDetection | None = None

    @property
    def hotwords(self) -> tuple[str, ...]:
        """Return the words that are made likelier."""
        return tuple(word for word in self.context_bias if word.strip())

    @property
    def options(self) -> SpeechOptions:
        """Return what an engine is to do."""
        return SpeechOptions(
            self.audio_format.sound,
            self.target_streaming_delay_ms,
            self.hotwords,
            self.turn_detection and self.turn_detection.rules,
        )

    def described(self, transcriber: Transcriber) -> dict[str, Any]:
        """Return the settings as they are followed, in Mistral's shape."""
        manifest, tokens = transcriber.manifest, transcriber.num_delay_tokens
        delay = self.target_streaming_delay_ms or delay_ms(manifest, tokens)
        return {
            **self.model_dump(),
            "target_streaming_delay_ms": delay,
            "language": None,  # it is detected
            "speaker_references": None,
        }

    def warnings(self, transcriber: Transcriber) -> list[str]:
        """Return a sentence for each setting that is not followed, or that may disappoint."""
        found = list[str]()
        if self.language:
            found.append("language: ignored, the model detects the language itself")
        delay = transcriber.stream_options(self.target_streaming_delay_ms).num_delay_tokens
        if untrained := untrained_delay(transcriber.manifest, delay):
            found.append(untrained)
        return found


def session_of(asked: Mapping[str, Any], transcriber: Transcriber) -> MistralSession:
    """Return the session that a client has asked for.

    Args:
        asked: its fields, by name; None where a field is as it is without being asked for.
        transcriber: of the engine.

    Raises:
        ApiError: a field is unknown, or asks for what the model does not have.
        UsageError: the model does not have this delay, or words cannot be made likelier.
    """
    try:
        session = MistralSession.model_validate(_without_none(asked))
    except ValidationError as error:
        fault = fault_of(error, MistralSession, "session")
        raise ApiError(f"{fault}", param=fault.path) from error
    if session.diarize or session.speaker_references:
        name = "diarize" if session.diarize else "speaker_references"
        raise _refused(name, f"{_NO_SPEAKERS}; leave it out")
    for name, only in THRESHOLDS.items():
        if session.turn_detection and getattr(session.turn_detection, name) != only:
            raise _refused(
                f"turn_detection.{name}",
                f"expected {only}, got {getattr(session.turn_detection, name)}: the model does not "
                "tell how likely a turn's end is; set min_silence_ms and end_timeout_ms",
            )
    transcriber.stream_options(session.target_streaming_delay_ms, session.hotwords or None)
    return session


def error_event(error: ApiError) -> dict[str, Any]:
    """Return an error as clients read it; its code is the status that HTTP has for it."""
    return {"type": "error", "error": {"message": str(error), "code": error.status}}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of JSON without its fields that are null."""
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def _refused(name: str, reason: str) -> ApiError:
    return ApiError(f"session.{name}: {reason}", param=f"session.{name}")
