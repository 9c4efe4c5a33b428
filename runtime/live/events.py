"""The events of a live stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..text.segments import Segment
from ..tokens import Token


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence, reported once when there was no text for SILENCE_SECONDS."""

    start: float  # end of the last text, in seconds


@dataclass(frozen=True, slots=True)
class StreamWarning:
    """A warning that the speaker should see."""

    text: str


@dataclass(frozen=True, slots=True)
class SpeechStart:
    """A sound that may be speech, after a turn has ended or before the first; a turn follows."""

    time: float  # in seconds


@dataclass(frozen=True, slots=True)
class TurnStart:
    """The first word of a turn."""

    time: float  # in seconds, where it began


@dataclass(frozen=True, slots=True)
class TurnEagerEnd:
    """A pause that is likely to be the end of a turn with words, of which some are yet to come."""

    time: float  # in seconds, where the pause began


@dataclass(frozen=True, slots=True)
class TurnResume:
    """Speech that goes on after `TurnEagerEnd`."""

    time: float  # in seconds


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The end of a turn, whose words have all come; of a sound without words too."""

    time: float  # in seconds, where the pause began; no earlier than the event before it
    reason: Literal["threshold", "timeout"]  # it was silent for long enough; or no words came


Turn = SpeechStart | TurnStart | TurnEagerEnd | TurnResume | TurnEnd
Event = Token | Segment | Silence | StreamWarning | Turn
