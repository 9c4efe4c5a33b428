"""Segments to text, subtitles and JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
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
    """Transcript of a live stream, with the fields that captions need."""

    segments: list[Segment]
    duration: float = 0.0  # seconds
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole text."""
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


def captions(segments: Iterable[Segment]) -> Iterator[Caption]:
    """Break segments into captions at sentence ends, pauses, and where lines or time are full."""
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
    "srt": lambda transcript: to_srt(transcript.segments),
    "vtt": lambda transcript: to_vtt(transcript.segments),
    "tsv": lambda transcript: to_tsv(transcript.segments),
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
