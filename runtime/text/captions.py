"""Output of segments as text, subtitles and JSON."""

from __future__ import annotations

import heapq
import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any, Protocol, TypeVar
from unicodedata import east_asian_width

from ...escaping import printable
from .segments import Segment
from .turns import by_channel, prefix, to_turns

MAX_COLUMNS = 42  # of a caption line; an East Asian wide character takes two
MAX_LINES = 2  # of a caption
MAX_SECONDS = 7.0  # that a cue lasts
# From the end of a segment to the start of the next. That start is the earliest possible one, so
# there must be silence in between.
PAUSE_SECONDS = 0.2
SENTENCE_ENDS = tuple(".!?。！？؟।")


class Recorded(Protocol):
    """A result that can be written to files: a `Transcript` or a `Recording`."""

    @property
    def text(self) -> str:
        """Return the whole text."""
        ...

    @property
    def segments(self) -> list[Segment]:
        """Return all segments."""
        ...

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Return the token ids."""
        ...

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Return the channels' names if each was transcribed separately, else nothing."""
        ...

    @property
    def duration(self) -> float:
        """Return the length of the audio in seconds."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """Return what ran (model, device, options) and how long it took."""
        ...


@dataclass(slots=True)
class Recording:
    """The segments of a live stream, or of several parts of a recording, as one result."""

    segments: list[Segment]
    duration: float = 0.0  # seconds
    info: dict[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    all_ids: tuple[int, ...] | None = None  # including blanks; None if these are not known

    @property
    def text(self) -> str:
        """Return the whole text."""
        if self.channel_names:
            return to_turns(self.segments, self.channel_names)
        return "".join(segment.text for segment in self.segments).removeprefix(" ")

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Return the ids of all tokens, or only those of text if the others are not known."""
        if self.all_ids is not None:
            return self.all_ids
        return tuple(token_id for segment in self.segments for token_id in segment.token_ids)


@dataclass(frozen=True, slots=True)
class Caption:
    """The lines that are on screen at one time."""

    start: float  # seconds
    end: float
    lines: tuple[str, ...]
    channel: int | None = None  # from 0, if channels were transcribed separately


Span = TypeVar("Span", Segment, Caption)


def cues(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Group segments into cues, in the order of their times.

    A cue ends at the end of a sentence, at a pause, or before it would have more than MAX_LINES or
    last longer than MAX_SECONDS. All its words are of one channel.
    """
    channels = [_cues(channel) for channel in by_channel(in_milliseconds(segments))]
    return heapq.merge(*channels, key=lambda cue: cue[0].start)


def _cues(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    cue: list[Segment] = []
    for segment in segments:
        if cue and (
            segment.start - cue[-1].end > PAUSE_SECONDS
            or segment.end - cue[0].start > MAX_SECONDS
            or len(_wrap("".join(part.text for part in [*cue, segment]))) > MAX_LINES
        ):
            yield cue
            cue = []
        cue.append(segment)
        if segment.text.rstrip().endswith(SENTENCE_ENDS):
            yield cue
            cue = []
    if cue:
        yield cue


def captions(segments: Iterable[Segment]) -> Iterator[Caption]:
    """Return captions in the order of their start; times are whole milliseconds, in seconds."""
    found = in_milliseconds(caption for cue in cues(segments) for caption in _screens(cue))
    return iter(sorted(found, key=lambda caption: caption.start))


def in_milliseconds(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield segments or captions with times rounded to milliseconds, as files have them.

    Each lasts at least a millisecond, and none begins before the previous one of its channel ends.
    """
    ended = dict[int | None, int]()
    for span in spans:
        start = max(ended.get(span.channel, 0), round(1000 * span.start))
        ended[span.channel] = end = max(start + 1, round(1000 * span.end))
        yield replace(span, start=start / 1000, end=end / 1000)


def to_srt(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """Return SubRip subtitles (.srt).

    An arrow `-->` in the text, which would begin a caption, is written `->`, as whisper does.
    """
    blocks = []
    for number, caption in enumerate(captions(segments), 1):
        start, end = (_clock(seconds).replace(".", ",") for seconds in (caption.start, caption.end))
        text = prefix(caption.channel, names) + "\n".join(caption.lines).replace("-->", "->")
        blocks.append(f"{number}\n{start} --> {end}\n{text}\n")
    return "\n".join(blocks)


def to_vtt(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """Return WebVTT subtitles (.vtt), in which the name of a channel is a voice tag.

    Source: W3C, WebVTT, section 4.2.2; `<` and `&` begin tags and entities and are escaped.
    """
    blocks = ["WEBVTT\n"]
    for caption in captions(segments):
        text = "\n".join(html.escape(line, quote=False) for line in caption.lines)
        if names and caption.channel is not None:
            text = f"<v {names[caption.channel]}>{text}</v>"
        blocks.append(f"{_clock(caption.start)} --> {_clock(caption.end)}\n{text}\n")
    return "\n".join(blocks)


def to_tsv(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """Return captions as tab-separated values: start and end in milliseconds, and the text.

    The header and these columns are whisper's. The channel's name is a fourth column.
    """
    rows = [["start", "end", "text", *["channel"][: len(names)]]]
    for caption in captions(segments):
        times = (str(round(1000 * seconds)) for seconds in (caption.start, caption.end))
        name = [names[caption.channel]] if names and caption.channel is not None else []
        rows.append([*times, " ".join(caption.lines), *name])
    return "".join("\t".join(row) + "\n" for row in rows)


def to_lrc(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """Return captions as LRC, the format of song lyrics: a line each, `[minutes:seconds]text`."""
    lines = []
    for caption in captions(segments):
        minutes, hundredths = divmod(round(100 * caption.start), 6000)
        time = f"[{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}]"
        lines.append(f"{time}{prefix(caption.channel, names)}{' '.join(caption.lines)}\n")
    return "".join(lines)


def to_json(transcript: Recorded, **facts: Any) -> str:
    """Return one line of JSON: `facts`, the fields of whisper's JSON, and fields of our own."""
    segments = list(in_milliseconds(transcript.segments))
    values = {
        **facts,
        "text": transcript.text,
        "segments": [segment_values(segment) for segment in segments],
        "cues": [_cue_values(cue) for cue in cues(segments)],
        "duration": round(transcript.duration, 3),
        "token_ids": list(transcript.token_ids),
        "info": transcript.info,
    }
    return json.dumps(values, ensure_ascii=False)


def _cue_values(cue: Sequence[Segment]) -> dict[str, Any]:
    """Return the JSON object of a cue, with whisper's fields of a segment and its words."""
    return {
        "start": cue[0].start,
        "end": cue[-1].end,
        "text": "".join(segment.text for segment in cue),
        "words": [
            {
                "word": segment.text,
                "start": segment.start,
                "end": segment.end,
                "probability": round(exp(segment.logprob), 4),
            }
            for segment in cue
        ],
    }


def segment_values(segment: Segment) -> dict[str, Any]:
    """Return the JSON object of a segment."""
    values = {
        "id": segment.id,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "avg_logprob": round(segment.logprob, 4),
    }
    if segment.channel is not None:
        values["channel"] = segment.channel
    if segment.alternatives:  # a list of them for each text token
        values["alternatives"] = [
            [
                {"token_id": one.token_id, "text": one.text, "logprob": round(one.logprob, 4)}
                for one in token
            ]
            for token in segment.alternatives
        ]
    return values


_RENDERERS: dict[str, Callable[..., str]] = {
    "txt": lambda transcript, **facts: transcript.text + "\n",
    "json": lambda transcript, **facts: to_json(transcript, **facts) + "\n",
    "srt": lambda transcript, **facts: to_srt(transcript.segments, transcript.channel_names),
    "vtt": lambda transcript, **facts: to_vtt(transcript.segments, transcript.channel_names),
    "tsv": lambda transcript, **facts: to_tsv(transcript.segments, transcript.channel_names),
    "lrc": lambda transcript, **facts: to_lrc(transcript.segments, transcript.channel_names),
}
FORMATS = tuple(_RENDERERS)


def render(transcript: Recorded, output_format: str, **facts: Any) -> str:
    """Return the transcript in one of FORMATS, ending in a newline.

    Control characters are written as escapes, so that a damaged or malicious tokenizer cannot send
    commands to the terminal on which the text is shown.

    Args:
        transcript: the result to write.
        output_format: one of FORMATS.
        facts: fields with which JSON begins, such as `file`.
    """
    return printable(_RENDERERS[output_format](transcript, **facts))


def columns(text: str) -> int:
    """Return how many columns of a terminal or a subtitle line a text takes."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _screens(segments: Sequence[Segment]) -> Iterator[Caption]:
    """Yield the caption of a cue.

    A single segment that is longer than a screen becomes several captions, which divide its time
    equally. Blank text has none.
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

    Lines break at spaces, and inside a word only if that is longer than a line.
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
