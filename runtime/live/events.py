"""The events of a live stream."""

from __future__ import annotations

from dataclasses import dataclass

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


Event = Token | Segment | Silence | StreamWarning
