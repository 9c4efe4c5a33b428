"""Turns and captions of several channels hold all words, each with those of its own channel."""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from voxtral_onnx.runtime.text.captions import Recording, captions, render
from voxtral_onnx.runtime.text.segments import Segment
from voxtral_onnx.runtime.text.turns import to_turns

NAMES = ("left", "right")
SPOKEN = st.lists(
    st.tuples(st.integers(0, 1), st.floats(0, 2), st.floats(0.08, 0.8)), min_size=1, max_size=40
)


def spoken(words) -> list[Segment]:
    """Segments of two channels, merged in time, each word with its channel in it."""
    ends, found = [0.0, 0.0], []
    for number, (channel, pause, length) in enumerate(words):
        start = ends[channel] + pause
        ends[channel] = start + length
        text = f" w{number}{NAMES[channel]}"
        found.append(Segment(0, start, ends[channel], text, (), 0.0, channel=channel))
    found.sort(key=lambda segment: segment.start)
    return [replace(segment, id=number) for number, segment in enumerate(found)]


@given(SPOKEN)
def test_turns_hold_all_words_of_their_channel_in_order(words):
    segments = spoken(words)
    lines = to_turns(segments, NAMES).split("\n")
    speakers = [line.split(": ")[0] for line in lines]
    assert all(one != other for one, other in pairwise(speakers))
    for channel, name in enumerate(NAMES):
        texts = [line.partition(": ")[2] for line in lines if line.startswith(name)]
        own = [segment.text for segment in segments if segment.channel == channel]
        assert " ".join(texts).split() == "".join(own).split()


def test_what_is_said_at_the_same_time_is_not_broken_into_words():
    words = [(0, 0, 0.3), (0, 0, 0.3), (0, 0, 0.3), (1, 0.4, 0.3), (1, 0, 0.3), (0, 2, 0.3)]
    assert to_turns(spoken(words), NAMES) == (
        "left: w0left w1left w2left\nright: w3right w4right\nleft: w5left"
    )


@given(SPOKEN)
def test_a_caption_holds_words_of_one_channel(words):
    segments = spoken(words)
    found = list(captions(segments))
    starts = [caption.start for caption in found]
    assert starts == sorted(starts)
    for caption in found:
        texts = " ".join(caption.lines).split()
        assert all(text.endswith(NAMES[caption.channel or 0]) for text in texts)
    shown = Counter(word for caption in found for word in " ".join(caption.lines).split())
    assert shown == Counter(segment.text.strip() for segment in segments)


@given(SPOKEN)
def test_every_format_names_the_channel(words):
    recording = Recording(spoken(words), 100.0, {}, NAMES)
    for kind, name in (
        ("txt", r"^(left|right): .*(left|right)$"),
        ("srt", r"^(left|right): [^\n]*?(left|right)$"),
        ("vtt", r"^<v (left|right)>[^\n]*?(left|right)(?:</v>)?$"),
        ("tsv", r"^\d+\t\d+\t[^\t\n]*(left|right)\t(left|right)$"),
    ):
        text = html.unescape(render(recording, kind))
        found = re.findall(name, text, re.MULTILINE)
        assert found and all(said == named for said, named in found)
    count = len(list(captions(recording.segments)))
    assert render(recording, "vtt").count("<v ") == render(recording, "vtt").count("</v>") == count
    assert render(recording, "tsv").count("\n") == count + 1
