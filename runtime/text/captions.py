"""Segments to text, subtitles and JSON."""

from __future__ import annotations

import heapq
import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from unicodedata import east_asian_width

from ...escaping import printable
from .segments import Segment
from .turns import by_channel, prefix, to_turns

MAX_COLUMNS = 42  # of a caption line; an East Asian wide character takes two
MAX_LINES = 2
MAX_SECONDS = 7.0
PAUSE_SECONDS = 0.2  # between one group's end and the earliest start of the next: surely silence
SENTENCE_ENDS = tuple(".!?。！？؟।")


class Recorded(Protocol):
    """What is written into files: a `Transcript`, or the `Recording` of a live stream."""

    @property
    def text(self) -> str:
        """The whole text."""
        ...

    @property
    def segments(self) -> list[Segment]:
        """All segments."""
        ...

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The token ids."""
        ...

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the channels are called, where each was transcribed on its own."""
        ...

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """What ran, and the time it took."""
        ...


@dataclass(slots=True)
class Recording:
    """Transcript of a live stream, with the fields that captions need."""

    segments: list[Segment]
    duration: float = 0.0  # seconds
    info: dict[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole text."""
        if self.channel_names:
            return to_turns(self.segments, self.channel_names)
        return "".join(segment.text for segment in self.segments).removeprefix(" ")

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Those of text alone."""
        return tuple(token_id for segment in self.segments for token_id in segment.token_ids)


@dataclass(frozen=True, slots=True)
class Caption:
    """What stands on screen at one time."""

    start: float
    end: float
    lines: tuple[str, ...]
    channel: int | None = None


def captions(segments: Iterable[Segment]) -> Iterator[Caption]:
    """Break segments into captions at sentence ends, pauses, and where lines or time are full.

    A caption holds words of one channel.
    """
    channels = [_captions(channel) for channel in by_channel(segments)]
    return heapq.merge(*channels, key=lambda caption: caption.start)


def _captions(segments: Iterable[Segment]) -> Iterator[Caption]:
    pending: list[Segment] = []
    for segment in segments:
        if pending and (
            segment.start - pending[-1].end > PAUSE_SECONDS
            or segment.end - pending[0].start > MAX_SECONDS
            or len(_wrap("".join(part.text for part in [*pending, segment]))) > MAX_LINES
        ):
            yield from _screens(pending)
            pending = []
        pending.append(segment)
        if segment.text.rstrip().endswith(SENTENCE_ENDS):
            yield from _screens(pending)
            pending = []
    if pending:
        yield from _screens(pending)


def to_srt(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """SubRip text; an arrow, which begins a caption there, is written as whisper writes it."""
    blocks = []
    for number, caption in enumerate(captions(segments), 1):
        start, end = (_clock(seconds).replace(".", ",") for seconds in (caption.start, caption.end))
        text = prefix(caption.channel, names) + "\n".join(caption.lines).replace("-->", "->")
        blocks.append(f"{number}\n{start} --> {end}\n{text}\n")
    return "\n".join(blocks)


def to_vtt(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """WebVTT text; a channel's name is the voice that speaks.

    Source: the W3C's WebVTT, section 4.2.2; `<` and `&` begin tags and entities there.
    """
    blocks = ["WEBVTT\n"]
    for caption in captions(segments):
        text = "\n".join(html.escape(line, quote=False) for line in caption.lines)
        if names and caption.channel is not None:
            text = f"<v {names[caption.channel]}>{text}</v>"
        blocks.append(f"{_clock(caption.start)} --> {_clock(caption.end)}\n{text}\n")
    return "\n".join(blocks)


def to_tsv(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """Captions as tab-separated milliseconds and text, with a header, as whisper writes them.

    A channel's name is a column behind them.
    """
    rows = [["start", "end", "text", *["channel"][: len(names)]]]
    for caption in captions(segments):
        times = (str(round(1000 * seconds)) for seconds in (caption.start, caption.end))
        name = [names[caption.channel]] if names and caption.channel is not None else []
        rows.append([*times, " ".join(caption.lines), *name])
    return "".join("\t".join(row) + "\n" for row in rows)


def to_json(transcript: Recorded) -> str:
    """One line of JSON: whisper's fields, then ours."""
    values = {
        "text": transcript.text,
        "segments": [segment_values(segment) for segment in transcript.segments],
        "duration": round(transcript.duration, 3),
        "token_ids": list(transcript.token_ids),
        "info": transcript.info,
    }
    return json.dumps(values, ensure_ascii=False)


def segment_values(segment: Segment) -> dict[str, Any]:
    """A segment as JSON holds it."""
    values = {
        "id": segment.id,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "avg_logprob": round(segment.logprob, 4),
    }
    if segment.channel is not None:
        values["channel"] = segment.channel
    if segment.alternatives:  # a list for each text token
        values["alternatives"] = [
            [
                {"token_id": one.token_id, "text": one.text, "logprob": round(one.logprob, 4)}
                for one in token
            ]
            for token in segment.alternatives
        ]
    return values


_RENDERERS: dict[str, Callable[[Any], str]] = {
    "txt": lambda transcript: transcript.text + "\n",
    "json": lambda transcript: to_json(transcript) + "\n",
    "srt": lambda transcript: to_srt(transcript.segments, transcript.channel_names),
    "vtt": lambda transcript: to_vtt(transcript.segments, transcript.channel_names),
    "tsv": lambda transcript: to_tsv(transcript.segments, transcript.channel_names),
}
FORMATS = tuple(_RENDERERS)


def render(transcript: Recorded, output_format: str) -> str:
    """The transcript in one of FORMATS, ending in a newline.

    Control characters are no speech: they are written as escapes, so that no reader of the text
    obeys the words of a tokenizer.
    """
    return printable(_RENDERERS[output_format](transcript))


def columns(text: str) -> int:
    """Columns that a terminal or a subtitle line needs."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _screens(segments: Sequence[Segment]) -> Iterator[Caption]:
    """One caption.

    Several that share the time where one segment is longer than a screen, none where it is blank.
    """
    lines = _wrap("".join(part.text for part in segments))
    if not lines[0]:
        return
    start, count = segments[0].start, -(-len(lines) // MAX_LINES)
    seconds = (segments[-1].end - start) / count
    for i in range(count):
        screen = lines[i * MAX_LINES : (i + 1) * MAX_LINES]
        times = start + i * seconds, start + (i + 1) * seconds
        yield Caption(*times, tuple(screen), segments[0].channel)


def _wrap(text: str) -> list[str]:
    """Wrap a text into lines of at most MAX_COLUMNS.

    Lines break at spaces, and inside a word only where it is longer or has no spaces.
    """
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if columns(joined) <= MAX_COLUMNS:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if columns(lines[-1] + character) > MAX_COLUMNS:
                lines.append("")
            lines[-1] += character
    return lines


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"
