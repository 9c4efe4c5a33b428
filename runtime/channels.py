"""Transcripts of recordings whose channels are transcribed separately, such as telephone calls."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from .audio.files import AudioSource
from .audio.mixing import channel_names
from .text.segments import Segment
from .text.turns import to_turns
from .transcript import Transcript


class SplitTranscript(Transcript):
    """The transcripts of all channels of a recording, merged by time.

    `channel` of each segment is the number of its channel.
    """

    def __init__(self, source: AudioSource, parts: Iterable[Transcript]):
        """Join transcripts; called by `Transcriber.transcribe`.

        Args:
            source: the whole recording.
            parts: a transcript of each channel; taken and decoded one after the other, so that only
                one has caches in memory.
        """
        self.source, self.duration = source, source.duration
        self._waiting, self._begun = iter(parts), list[Transcript]()

    def __iter__(self) -> Iterator[Segment]:
        """Decode all channels and yield their segments, merged by time."""
        return iter(self.segments)

    @property
    def parts(self) -> tuple[Transcript, ...]:
        """Decode and return the transcript of each channel that was transcribed."""
        for part in self._begun:
            _ = part.segments  # raises the error that has ended it
        while part := self._begin():
            _ = part.segments
        return tuple(self._begun)

    def _begin(self) -> Transcript | None:
        """Return the transcript of the next channel, not decoded yet; None after the last."""
        if part := next(self._waiting, None):
            self._begun.append(part)
        return part

    @property
    def decoded(self) -> list[Segment]:
        """Return the segments decoded so far, and decode nothing."""
        return _merged(self._begun)

    @property
    def num_tokens(self) -> int:
        """Return the number of token ids so far, and decode nothing."""
        return sum(part.num_tokens for part in self._begun)

    @property
    def segments(self) -> list[Segment]:
        """Decode and return all segments, merged by time."""
        return _merged(self.parts)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Return the channels' names; a recording with a single channel has none."""
        return channel_names(self.source.num_channels)

    @property
    def text(self) -> str:
        """Decode and return a line for each turn, such as "left: how are you"."""
        return to_turns(self.segments, self.channel_names)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Decode and return the generated ids of all channels, one channel after the other.

        `parts` holds the ids of each channel, and `info["channels"]` their numbers.
        """
        return tuple(token_id for part in self.parts for token_id in part.token_ids)

    @property
    def info(self) -> dict[str, Any]:
        """Return what ran (model, device, options) and the time that all channels took."""
        if not self._begun:
            self._begin()
        parts, infos = self._begun, [part.info for part in self._begun]
        work = {key: sum(info[key] for info in infos) for key in ("encode_ms", "decode_ms")}
        seconds = sum(work.values()) / 1000
        steps = sum(part.writer.timings.steps for part in parts)
        counts = {
            key: None if infos[0][key] is None else sum(info[key] for info in infos)
            for key in ("blank_guard", "hotwords")
        }
        return {
            **infos[0],
            **counts,
            **{key: round(milliseconds, 1) for key, milliseconds in work.items()},
            "vad": [info["vad"] for info in infos] if infos[0]["vad"] else None,
            "rtf": round(seconds / self.duration, 4) if self.duration else None,
            "tokens_per_second": round(steps / seconds, 1) if seconds else None,
            "channels": [
                {"channel": part.source.channel, "tokens": part.num_tokens} for part in parts
            ],
        }


def join_channels(
    sources: Generator[AudioSource, None, None],
    transcribe: Callable[[Iterator[AudioSource]], Iterator[Transcript]],
) -> Iterator[Transcript]:
    """Transcribe channels as sources of their own, and join them to transcripts of recordings.

    Args:
        sources: recordings, whose `parts` are their channels if these are to be split; closed at
            the end.
        transcribe: yields a transcript for each source that it is given, in any order.

    Yields:
        the transcript of each recording, as soon as all its channels are transcribed.
    """
    wholes, done = dict[int, AudioSource](), dict[int, list[Transcript]]()  # by the source's id

    def parts() -> Iterator[AudioSource]:
        for source in sources:
            for part in source.parts or (source,):
                wholes[id(part)] = source
                yield part

    with closing(sources):
        for transcript in transcribe(parts()):
            source = wholes.pop(id(transcript.source))
            if not source.parts:
                yield transcript
                continue
            done.setdefault(id(source), []).append(transcript)
            if len(done[id(source)]) == len(source.parts):
                found = done.pop(id(source))
                found.sort(key=lambda each: each.source.channel or 0)
                yield SplitTranscript(source, found)


def _merged(parts: Iterable[Transcript]) -> list[Segment]:
    found = [
        replace(segment, channel=part.source.channel) for part in parts for segment in part.decoded
    ]
    found.sort(key=lambda segment: segment.start)
    return [replace(segment, id=number) for number, segment in enumerate(found)]
