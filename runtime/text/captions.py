"""Segments to text, subtitles and JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any, Protocol, TypeVar
from unicodedata import east_asian_width

from ...escaping import printable
from .segments import Segment

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
    all_ids: tuple[int, ...] | None = None  # those of blanks too, where they are known

    @property
    def text(self) -> str:
        """Return the whole text."""
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


Span = TypeVar("Span", Segment, Caption)


def cues(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Break segments into cues at sentence ends, pauses, and where lines or time are full."""
    cue: list[Segment] = []
    for segment in in_milliseconds(segments):
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
    """Return the captions of cues, whose times are whole milliseconds."""
    return in_milliseconds(caption for cue in cues(segments) for caption in _screens(cue))


def in_milliseconds(spans: Iterable[Span]) -> Iterator[Span]:
    """Round times to milliseconds, in which subtitles and JSON have them.

    Each span lasts a millisecond at least, and none begins before the one before it has ended.
    """
    ended = 0
    for span in spans:
        start = max(ended, round(1000 * span.start))
        ended = max(start + 1, round(1000 * span.end))
        yield replace(span, start=start / 1000, end=ended / 1000)


def to_srt(segments: Iterable[Segment]) -> str:
    """SubRip text; an arrow, which begins a caption there, is written as whisper writes it."""
    blocks = []
    for number, caption in enumerate(captions(segments), 1):
        start, end = (_clock(seconds).replace(".", ",") for seconds in (caption.start, caption.end))
        text = "\n".join(caption.lines).replace("-->", "->")
        blocks.append(f"{number}\n{start} --> {end}\n{text}\n")
    return "\n".join(blocks)


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT text.

    Source: the W3C's WebVTT, section 4.2.2; `<` and `&` begin tags and entities there.
    """
    blocks = ["WEBVTT\n"]
    for caption in captions(segments):
        text = "\n".join(html.escape(line, quote=False) for line in caption.lines)
        blocks.append(f"{_clock(caption.start)} --> {_clock(caption.end)}\n{text}\n")
    return "\n".join(blocks)


def to_tsv(segments: Iterable[Segment]) -> str:
    """Captions as tab-separated milliseconds and text, with a header, as whisper writes them."""
    rows = [
        (round(1000 * c.start), round(1000 * c.end), " ".join(c.lines)) for c in captions(segments)
    ]
    return "".join(
        f"{start}\t{end}\t{text}\n" for start, end, text in [("start", "end", "text"), *rows]
    )


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
    "srt": lambda transcript, **facts: to_srt(transcript.segments),
    "vtt": lambda transcript, **facts: to_vtt(transcript.segments),
    "tsv": lambda transcript, **facts: to_tsv(transcript.segments),
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
        yield Caption(start + i * seconds, start + (i + 1) * seconds, tuple(screen))


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
