"""Turns of a conversation: when somebody has begun to speak, and when they have finished."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TurnRules:
    """When a turn ends."""

    min_silence: float = 0.5  # seconds without speech
    timeout: float = 3.0  # seconds without words, where noise sounds like speech
    level: float = 6.0  # decibels above the noise from which on a sound may be speech
