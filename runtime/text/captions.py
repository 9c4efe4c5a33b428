"""Segments to text, subtitles and JSON."""

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
    """Segments of a live stream, or of several parts of a recording, with what captions need."""

    segments: list[Segment]
    duration: float = 0.0  # seconds
    info: dict[str, Any] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    all_ids: tuple[int, ...] | None = None  # those of blanks too, where they are known

    @property
    def text(self) -> str:
        """Return the whole text."""
        if self.channel_names:
            return to_turns(self.segments, self.channel_names)
        return "".join(segment.text for segment in self.segments).removeprefix(" ")

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Return all ids, or those of text alone."""
        if self.all_ids is not None:
            return self.all_ids
        return tuple(token_id for segment in self.segments for token_id in segment.token_ids)


@dataclass(frozen=True, slots=True)
class Caption:
    """What stands on screen at one time."""

    start: float
    end: float
    lines: tuple[str, ...]
    channel: int | None = None


Span = TypeVar("Span", Segment, Caption)


def cues(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Break segments into cues at sentence ends, pauses, and where lines or time are full.

    A cue holds words of one channel.
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
    """Return the captions of cues in the order of their times, which are whole milliseconds."""
    found = in_milliseconds(caption for cue in cues(segments) for caption in _screens(cue))
    return iter(sorted(found, key=lambda caption: caption.start))


def in_milliseconds(spans: Iterable[Span]) -> Iterator[Span]:
    """Round times to milliseconds, in which subtitles and JSON have them.

    Each span lasts a millisecond at least, and none begins before the one before it in its channel
    has ended.
    """
    ended = dict[int | None, int]()
    for span in spans:
        start = max(ended.get(span.channel, 0), round(1000 * span.start))
        ended[span.channel] = end = max(start + 1, round(1000 * span.end))
        yield replace(span, start=start / 1000, end=end / 1000)


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


def to_lrc(segments: Iterable[Segment], names: Sequence[str] = ()) -> str:
    """Captions as LRC, the format of lyrics: a line each, its start in hundredths before it."""
    lines = []
    for caption in captions(segments):
        minutes, hundredths = divmod(round(100 * caption.start), 6000)
        time = f"[{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}]"
        lines.append(f"{time}{prefix(caption.channel, names)}{' '.join(caption.lines)}\n")
    return "".join(lines)


def to_json(transcript: Recorded, **facts: Any) -> str:
    """Return one line of JSON: `facts`, whisper's fields, then ours."""
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
    """Return a cue as JSON holds it: whisper's fields of a segment and its words."""
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
    """Return a segment as JSON holds it."""
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

    Control characters are no speech: they are written as escapes, so that no reader of the text
    obeys the words of a tokenizer.

    Args:
        transcript: what was transcribed.
        output_format: of FORMATS.
        facts: fields that JSON begins with, as `file`.
    """
    return printable(_RENDERERS[output_format](transcript, **facts))


def columns(text: str) -> int:
    """Columns that a terminal or a subtitle line needs."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _screens(segments: Sequence[Segment]) -> Iterator[Caption]:
    """Yield one caption.

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
