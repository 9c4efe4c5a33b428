"""Transcripts of recordings whose channels are transcribed each on its own, as those of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from .audio.files import AudioSource
from .audio.mixing import channel_names
from .text.segments import Segment
from .text.turns import to_turns
from .transcript import Transcript


class SplitTranscript(Transcript):
    """The transcripts of channels, merged in time; each segment says of which channel it is."""

    def __init__(self, source: AudioSource, parts: Iterable[Transcript]):
        """Made by `Transcriber.transcribe`.

        Args:
            source: the whole recording.
            parts: a transcript of each of its parts; taken and decoded one after the other, so that
                there are caches for one at a time.
        """
        self.source, self.duration = source, source.duration
        self._waiting, self._begun = iter(parts), list[Transcript]()

    def __iter__(self) -> Iterator[Segment]:
        """Decode all channels and yield their segments, merged in time."""
        return iter(self.segments)

    @property
    def parts(self) -> tuple[Transcript, ...]:
        """Decode and return the transcript of each channel that was transcribed."""
        for part in self._begun:
            _ = part.segments  # raises what has ended it
        while part := self._begin():
            _ = part.segments
            for cache in ("encoder_cache", "decoder_cache"):  # a transcript may be kept for long
                part.stream.__dict__.pop(cache, None)
        return tuple(self._begun)

    def _begin(self) -> Transcript | None:
        """Take the next part, of which nothing is decoded yet."""
        if part := next(self._waiting, None):
            self._begun.append(part)
        return part

    @property
    def decoded(self) -> list[Segment]:
        """Return the segments so far; decodes nothing."""
        return _merged(self._begun)

    @property
    def num_tokens(self) -> int:
        """Return how many ids there are so far; decodes nothing."""
        return sum(part.num_tokens for part in self._begun)

    @property
    def segments(self) -> list[Segment]:
        """Decode and return all segments, merged in time."""
        return _merged(self.parts)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Return what the channels of the recording are called; the only one has no name."""
        return channel_names(self.source.num_channels)

    @property
    def text(self) -> str:
        """Decode and return a line for each turn, as "left: how are you"."""
        return to_turns(self.segments, self.channel_names)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Decode and return the generated ids, one channel's behind the other's.

        `parts` have those of each; `info` counts them.
        """
        return tuple(token_id for part in self.parts for token_id in part.token_ids)

    @property
    def info(self) -> dict[str, Any]:
        """Return what ran, and the time that all channels took."""
        if not self._begun:
            self._begin()
        parts, infos = self._begun, [part.info for part in self._begun]
        work = {key: sum(info[key] for info in infos) for key in ("encode_ms", "decode_ms")}
        seconds = sum(work.values()) / 1000
        steps = sum(part.stream.timings.steps for part in parts)
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
    sources: Iterable[AudioSource],
    transcribe: Callable[[Iterator[AudioSource]], Iterator[Transcript]],
) -> Iterator[Transcript]:
    """Transcribe channels as sources of their own, and yield recordings as they are whole."""
    wholes, done = dict[int, AudioSource](), dict[int, list[Transcript]]()  # by the source's id

    def parts() -> Iterator[AudioSource]:
        for source in sources:
            for part in source.parts or (source,):
                wholes[id(part)] = source
                yield part

    for transcript in transcribe(parts()):
        source = wholes.pop(id(transcript.source))
        if not source.parts:
            yield transcript
            continue
        done.setdefault(id(source), []).append(transcript)
        if len(done[id(source)]) == len(source.parts):
            found = done.pop(id(source))
            yield SplitTranscript(source, sorted(found, key=lambda each: each.source.channel or 0))


def _merged(parts: Iterable[Transcript]) -> list[Segment]:
    found = [
        replace(segment, channel=part.source.channel) for part in parts for segment in part.decoded
    ]
    found.sort(key=lambda segment: segment.start)
    return [replace(segment, id=number) for number, segment in enumerate(found)]
