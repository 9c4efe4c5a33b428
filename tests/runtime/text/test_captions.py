"""Captions keep the text, its order and the limits of a screen."""

from __future__ import annotations

import base64
import csv
import html
import json
import re
from itertools import pairwise

import pytest
from golden import streams
from golden.make import TOKENS
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from voxtral_onnx.runtime.text.captions import (
    MAX_COLUMNS,
    MAX_LINES,
    PAUSE_SECONDS,
    Recording,
    captions,
    columns,
    render,
    to_srt,
    to_tsv,
    to_vtt,
)
from voxtral_onnx.runtime.text.segments import Grouper, Segment, group, within
from voxtral_onnx.runtime.tokens import Token

LATIN = st.text("abcdefghijklmnopqrstuvwxyzäöüß'-", min_size=1, max_size=12)
ARABIC = st.text("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", min_size=1, max_size=9)
CJK = st.text("今日天気明報東京都道府県中文字幕한국어", min_size=1, max_size=14)
LONG = st.text("abc今日م", min_size=80, max_size=300)
END = st.sampled_from(["", "", "", ".", "?", "。", "؟"])
WORDS = st.tuples(
    st.sampled_from(["", " ", "  ", "\n"]), st.one_of(LATIN, ARABIC, CJK, LONG, st.just("")), END
)
SEGMENTS = st.lists(st.tuples(WORDS.map("".join), st.floats(0, 3), st.floats(0, 0.8)), max_size=60)


def timed(words) -> list[Segment]:
    """Segments that follow each other as the model's do."""
    segments, end = [], 0.0
    for i, (text, pause, length) in enumerate(words):
        start = end + pause
        end = start + length
        segments.append(Segment(i, start, end, text, (), 0.0))
    return segments


def parse_srt(text: str) -> list[tuple[int, int, list[str]]]:
    """Start and end in milliseconds, and lines; asserts the format."""
    blocks = []
    for number, block in enumerate(text.split("\n\n") if text else [], 1):
        head, times, *lines = block.removesuffix("\n").split("\n")
        assert head == str(number)
        match = re.fullmatch(
            r"(\d\d):(\d\d):(\d\d),(\d{3}) --> "
            r"(\d\d):(\d\d):(\d\d),(\d{3})",
            times,
        )
        assert match is not None, times
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        blocks.append(
            (((h * 60 + m) * 60 + s) * 1000 + ms, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2, lines)
        )
    return blocks


def letters(text: str) -> str:
    return "".join(text.split())


@given(SEGMENTS)
def test_srt_keeps_text_order_and_limits(words):
    segments = timed(words)
    blocks = parse_srt(to_srt(segments))
    previous_end = 0
    for start, end, lines in blocks:
        assert previous_end <= start < end
        previous_end = end
        assert 1 <= len(lines) <= MAX_LINES
        assert all(line.strip() and columns(line) <= MAX_COLUMNS for line in lines)
    assert letters("".join(line for _, _, lines in blocks for line in lines)) == letters(
        "".join(segment.text for segment in segments)
    )


@given(st.lists(LATIN, min_size=1, max_size=40))
def test_short_words_are_never_broken(words):
    segments = timed([(" " + word, 0, 0.3) for word in words])
    shown = [
        word for caption in captions(segments) for line in caption.lines for word in line.split()
    ]
    assert shown == words


def test_captions_end_at_sentences_pauses_and_seven_seconds():
    words = [(" one.", 0, 0.5), (" two", 0, 0.5), (" three", 0.5, 0.5), *[(" x", 0, 1)] * 8]
    shown = ["".join(caption.lines) for caption in captions(timed(words))]
    assert shown == ["one.", "two", "three x x x x x x", "x x"]


def test_a_group_longer_than_a_screen_shares_its_time():
    text = "".join(chr(0x4E00 + i) for i in range(63))  # three lines
    first, second = captions(timed([(text, 0, 0.8)]))
    assert (first.lines, second.lines) == ((text[:21], text[21:42]), (text[42:],))
    assert (first.start, first.end, second.start, second.end) == (0, 0.4, 0.4, 0.8)


@given(SEGMENTS)
def test_all_formats_show_the_same_captions(words):
    segments = timed(words)
    expected = parse_srt(to_srt(segments))
    head, *blocks = to_vtt(segments).split("\n\n") if expected else [to_vtt(segments).rstrip()]
    assert head == "WEBVTT"
    shown = [block.removesuffix("\n").split("\n") for block in blocks]
    assert [[html.unescape(line) for line in lines] for _, *lines in shown] == [
        lines for _, _, lines in expected
    ]
    assert [times.replace(".", ",") for times, *_ in shown] == re.findall(
        r"^.* --> "
        r".*$",
        to_srt(segments),
        re.M,
    )
    rows = list(csv.reader(to_tsv(segments).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows == [
        ["start", "end", "text"],
        *([str(a), str(b), " ".join(lines)] for a, b, lines in expected),
    ]


def test_vtt_escapes_what_begins_a_tag_or_an_entity():
    assert to_vtt(timed([(" a <b> & c", 0, 1)])) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na &lt;b&gt; &amp; c\n"
    )


def parse_vtt(text: str) -> list[tuple[int, int, str]]:
    """Start and end in milliseconds, and text, as the W3C's parser takes them from a file."""
    lines = text.split("\n")
    assert lines[0] == "WEBVTT"
    found, at = [], 1
    while at < len(lines):
        if "-->" not in lines[at]:
            assert not lines[at]
            at += 1
            continue
        start, end = (
            sum(int(part) * size for part, size in zip(re.split("[:.]", time), SIZES, strict=True))
            for time in lines[at].split(" --> ")
        )
        payload = []
        while (at := at + 1) < len(lines) and lines[at]:
            payload.append(lines[at])
        assert payload and not any("<" in line for line in payload)
        found.append((start, end, html.unescape(" ".join(payload))))
    return found


SIZES = (3_600_000, 60_000, 1000, 1)
ANY_TIME = st.floats(0, 3e5)
ANY_SEGMENTS = st.lists(st.tuples(WORDS.map("".join), ANY_TIME, ANY_TIME), max_size=40)


@given(ANY_SEGMENTS)
def test_every_format_has_times_that_last_and_do_not_overlap(words):
    """Whatever the times of segments are, in order or not."""
    segments = [
        Segment(i, start, end, text, (i,), -0.1) for i, (text, start, end) in enumerate(words)
    ]
    values = json.loads(render(Recording(segments), "json"))
    srt = [(start, end) for start, end, _ in parse_srt(to_srt(segments))]
    vtt = parse_vtt(to_vtt(segments))
    tsv = [tuple(map(int, row.split("\t")[:2])) for row in to_tsv(segments).splitlines()[1:]]
    in_words = [word for cue in values["cues"] for word in cue["words"]]
    assert [(start, end) for start, end, _ in vtt] == srt == tsv
    for spans in (
        srt,
        *([(each["start"], each["end"]) for each in values[name]] for name in ("segments", "cues")),
        [(word["start"], word["end"]) for word in in_words],
    ):
        assert all(start < end for start, end in spans)
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
    text = letters("".join(segment.text for segment in segments))
    assert letters("".join(line for _, _, line in vtt)) == text
    assert [word["word"] for word in in_words] == [segment.text for segment in segments]


TOKEN_IDS = st.lists(st.sampled_from([32, 33, 33, 1381, 1382]), max_size=60)


@given(TOKEN_IDS, st.integers(1, 80_000))
def test_times_of_words_end_with_the_audio(ids, num_samples):
    """Words may be written up to the last position, 880 ms of silence behind the audio."""
    duration, behind = num_samples / 16000, -(-num_samples // 1280) + 11
    ids = ids[:behind]
    first = behind - len(ids)  # the last of them stands at the last position
    tokens = (
        Token(first + i, t, " a" * (t > 1000), (first + i + 1) * 0.08, -0.1, 0.0)
        for i, t in enumerate(ids)
    )
    segments = [within(segment, duration) for segment in group(tokens, Grouper(TOKENS))]
    for segment in segments:
        assert segment.start < segment.end <= duration
    assert all(one.end <= other.start for one, other in pairwise(segments))
    cues = json.loads(render(Recording(segments, duration), "json"))["cues"]
    if num_samples > 1280:  # or there may be less than a millisecond for each
        assert not cues or cues[-1]["end"] <= round(duration, 3)


def test_cues_hold_words_in_the_spelling_of_whisper():
    segments = timed([(" one.", 0, 0.5), (" two", 1, 0.5)])
    value = json.loads(render(Recording(segments, 2.0), "json", file="a.wav"))
    assert list(value)[:4] == ["file", "text", "segments", "cues"]
    assert value["cues"] == [
        {
            "start": start,
            "end": start + 0.5,
            "text": text,
            "words": [{"word": text, "start": start, "end": start + 0.5, "probability": 1.0}],
        }
        for text, start in ((" one.", 0.0), (" two", 1.5))
    ]


def test_no_text():
    for segments in ([], timed([(" ", 0, 1)])):
        assert (to_srt(segments), to_vtt(segments)) == ("", "WEBVTT\n")
        assert to_tsv(segments) == "start\tend\ttext\n"


def test_columns_of_wide_characters():
    assert columns("ab") == 2
    assert columns("今日") == 4


STORED = json.loads((streams.HERE / "streams.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def computed():
    return streams.golden()


def test_stored_streams_are_what_is_computed(computed):
    assert json.loads(json.dumps(computed)) == STORED


@pytest.mark.parametrize("language", streams.GROUPS)
def test_captions_of_languages(language):
    """By other means: the bytes joined, the widths by rich, and breaks where the groups say so."""
    stream, groups = STORED["streams"][language], streams.GROUPS[language]
    content = b"".join(
        base64.b64decode(STORED["token_bytes"].get(str(i), "")) for i in stream["token_ids"]
    )
    assert (
        content.decode().removeprefix(" ")
        == stream["text"]
        == "".join(text for text, _ in groups).strip()
    )
    assert [segment["text"] for segment in stream["segments"]] == [text for text, _ in groups]
    lines = [caption["lines"] for caption in stream["captions"]]
    assert all(
        len(pair) <= MAX_LINES and cell_len(line) <= MAX_COLUMNS for pair in lines for line in pair
    )
    ends = ["".join("".join(pair).split()) for pair in lines]
    assert "".join(ends) == "".join(stream["text"].split())
    shown, at = [], 0
    for text in ends:
        at += len(text)
        shown.append(at)
    at = 0
    for (text, _), (_, silence) in zip(groups, [*groups[1:], ("", 0)], strict=True):
        at += len("".join(text.split()))
        if (
            text.endswith((".", "!", "?", "؟", "।", "。", "！", "？"))
            or silence > PAUSE_SECONDS + 0.8
        ):
            assert at in shown, text
    assert parse_srt(stream["srt"]) == [
        (round(1000 * caption["start"]), round(1000 * caption["end"]), caption["lines"])
        for caption in stream["captions"]
    ]
    assert html.unescape(stream["vtt"]).count("-->") == len(lines)
