"""Text of several channels as a dialogue, with a line for each turn of a speaker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from .segments import Segment

PAUSE_SECONDS = 0.6  # of a channel, after which the turn may pass to another


def by_channel(segments: Iterable[Segment]) -> list[list[Segment]]:
    """Return a list of segments for each channel, in the order in which they were given."""
    channels: dict[int | None, list[Segment]] = {}
    for segment in segments:
        channels.setdefault(segment.channel, []).append(segment)
    return list(channels.values())


def to_turns(segments: Iterable[Segment], names: Sequence[str]) -> str:
    """Return a line for each turn, with the channel's name before it.

    Two people who speak at the same time do not interrupt each other's line at every word, because
    a turn lasts until its channel pauses.
    """
    utterances = [one for channel in by_channel(segments) for one in _utterances(channel)]
    utterances.sort(key=lambda one: one[0].start)
    turns = groupby(utterances, lambda one: one[0].channel)
    return "\n".join(
        f"{prefix(channel, names)}{_text(part for one in turn for part in one)}"
        for channel, turn in turns
    )


def prefix(channel: int | None, names: Sequence[str]) -> str:
    """Return the name of a channel as it is written before its text, or nothing without names."""
    return f"{names[channel]}: " if names and channel is not None else ""


def _utterances(segments: list[Segment]) -> Iterator[list[Segment]]:
    """Yield the segments of one channel, split at its pauses."""
    begun: list[Segment] = []
    for segment in segments:
        if begun and segment.start - begun[-1].end > PAUSE_SECONDS:
            yield begun
            begun = []
        begun.append(segment)
    if begun:
        yield begun


def _text(segments: Iterable[Segment]) -> str:
    return " ".join("".join(segment.text for segment in segments).split())
