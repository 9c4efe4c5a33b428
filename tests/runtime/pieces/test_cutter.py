"""Cuts rise, lie in silence, and part a recording as evenly as its silence allows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.commands import SAMPLES

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.pieces.cutter import Cut, Cutter, count_pieces

RATE, FRAME, TOKEN = 16000, 320, 4  # samples of a second and a frame; frames of a token
LEGAL, MINUTE = 30, 3000  # frames


@pytest.fixture(scope="module")
def audio(tiny_artifact):
    return Manifest.read(tiny_artifact).config.audio


class Scripted:
    """A finder of silence where a script has it; the samples are its frames."""

    def push(self, is_silent):
        yield from np.split(is_silent, range(50, len(is_silent), 50))

    def finish(self):
        yield np.zeros(0, bool)


def frames_of(runs: list[tuple[int, int]]) -> np.ndarray:
    """Return which frames are silent, from numbers of frames of sound and silence in turns."""
    return np.concatenate(
        [np.zeros(0, bool), *(np.arange(sound + quiet) >= sound for sound, quiet in runs)]
    )


def plan(cutter: Cutter, is_silent: np.ndarray) -> list[Cut]:
    """Return the cuts of a recording whose silence is known."""
    cutter._finder = Scripted()  # pyright: ignore[reportAttributeAccessIssue]: what is silent
    return cutter.push(is_silent) + cutter.finish()


def silence_at(is_silent: np.ndarray, token: int) -> tuple[int, int]:
    """Return first frame and end of the silence at the beginning of a token."""
    first = end = TOKEN * token
    while first and is_silent[first - 1]:
        first -= 1
    while end < len(is_silent) and is_silent[end]:
        end += 1
    return first, end


def has_legal(is_silent: np.ndarray, first: int, end: int) -> bool:
    """Return whether a cut may lie strictly between two frames, in silence before the end."""
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False)).reshape(-1, 2)
    return any(
        min(stop - LEGAL // 2, end) >= max(start + LEGAL // 2, first)
        for start, stop in edges.tolist()
        if stop - start >= LEGAL and stop < len(is_silent)
    )


@settings(max_examples=200, deadline=None)
@given(
    runs=st.lists(
        st.tuples(st.integers(1, 3000) | st.integers(5000, 40000), st.integers(1, 200)),
        max_size=60,
    ),
    num_slots=st.integers(1, 64),
    wrong=st.sampled_from([1, 1, 1, 0.5, 3]),
)
@example(runs=[(1000, 40)] + [(2000, 5)] * 30 + [(10, 40)], num_slots=4, wrong=1)
@example(runs=[(100, 60000)], num_slots=4, wrong=1)
@example(runs=[(35000, 40), (3000, 60)] * 3, num_slots=4, wrong=1)
@example(runs=[(1, 1), (5000, 30), (49, 200), (14722, 31)], num_slots=5, wrong=1)
def test_cuts_follow_the_rules(audio, runs, num_slots, wrong):
    is_silent = frames_of(runs)
    cutter = Cutter(audio, wrong * len(is_silent) / 50, num_slots)
    cuts = plan(cutter, is_silent)

    bounds = [0, *(TOKEN * cut.token for cut in cuts)]
    assert all(right - left >= 5 * 50 - TOKEN for left, right in pairwise(bounds))
    for cut in cuts:
        first, end = silence_at(is_silent, cut.token)
        assert end - first >= LEGAL
        assert cut.silent_before == cut.token - -(-first // TOKEN)
        assert 0 < cut.silent_after <= end // TOKEN - cut.token
    # No piece is longer than five minutes where it could have ended before, by a second
    # in which the silence's length was not known yet
    whole = [*bounds, len(is_silent)]
    for left, right in pairwise(whole):
        if right - left > 5 * MINUTE:
            assert not has_legal(is_silent, left + 5 * 50, left + 5 * MINUTE - LEGAL)
    # Nothing is cut after ten minutes without silence
    if cutter.whole_from is not None:
        assert round(50 * cutter.whole_from) == bounds[-1]
        assert not has_legal(is_silent, bounds[-1] + 5 * 50, bounds[-1] + 10 * MINUTE - LEGAL)
    else:
        assert all(right - left <= 10 * MINUTE + 100 for left, right in pairwise(whole))


def test_pieces_are_even_where_silence_is_everywhere(audio):
    """As many as slots, unless they would be shorter than 24 seconds or longer than 4 minutes."""
    for minutes, num_slots, count in [
        (10, 4, 4),
        (60, 64, 64),
        (10, 64, 25),
        (60, 4, 16),
        (3, 2, 2),
    ]:
        is_silent = frames_of([(130, 60)] * (minutes * MINUTE // 190))
        assert count_pieces(60 * minutes, num_slots) == count
        cuts = plan(Cutter(audio, 60 * minutes, num_slots), is_silent)
        bounds = [0, *(cut.token * TOKEN / 50 for cut in cuts), 60 * minutes]
        lengths = np.diff(bounds)
        assert len(lengths) == pytest.approx(count, abs=1)
        aim = 60 * minutes / count
        assert all(abs(lengths[:-1] - aim) <= 4)


def test_a_second_of_silence_is_preferred(audio):
    """Around the length aimed at; a shorter silence comes into question later only."""
    for runs, expected in [
        ([(2800, 40), (400, 55), (6000, 10)], 2800 + 40 + 400 + 27),
        ([(2800, 40), (400, 45), (6000, 10)], 2800 + 40 + 400 + 22),
        ([(2800, 40), (800, 45), (6000, 10)], 2800 + 40 + 800 + 22),
        ([(1500, 40), (9000, 10)], None),
        ([(1500, 40), (20000, 10)], 1500 + 20),
    ]:
        is_silent = frames_of(runs)
        cuts = plan(Cutter(audio, 120, 2), is_silent)  # aims at a minute
        assert [round(cut.token * TOKEN, -1) for cut in cuts[:1]] == (
            [] if expected is None else [round(round(expected / TOKEN) * TOKEN, -1)]
        )


def test_a_recording_without_silence_goes_on_whole(audio):
    is_silent = frames_of([(3000, 60), (30200, 60), (3000, 60), (3000, 60)])
    cutter = Cutter(audio, len(is_silent) / 50, 8)
    cuts = plan(cutter, is_silent)
    assert [cut.token for cut in cuts] == [round(3030 / TOKEN)]
    assert cutter.whole_from == pytest.approx(3030 / 50, abs=0.08)
    assert cutter.push(is_silent) == []


def test_silence_at_the_end_parts_nothing(audio):
    """Unless it was so long that the recording seemed to go on."""
    for sound, quiet, count in [(1625, 40, 0), (1600, 2400, 2)]:
        assert len(plan(Cutter(audio, 20, 2), frames_of([(sound, quiet)]))) == count
    assert len(plan(Cutter(audio, 20, 2), frames_of([(1625, 40), (20, 0)]))) == 1


def joined(seconds: float, pause: float, seed: int = 0) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return samples with pauses in a little noise, and first sample and end of each pause."""
    rng, parts, gaps, length = np.random.default_rng(seed), [], [], 0
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
    clips = [clip for clip in clips if len(clip) < 5 * RATE]
    while length < seconds * RATE:
        clip = clips[rng.integers(len(clips))]
        loud = np.flatnonzero(np.abs(clip) > 0.02)
        clip = clip[loud[0] : loud[-1]]
        parts += [clip, np.zeros(int(pause * RATE), np.float32)]
        gaps.append((length + len(clip), length + len(clip) + int(pause * RATE)))
        length = gaps[-1][1]
    samples = np.concatenate(parts)
    return samples + 1e-3 * rng.standard_normal(length).astype(np.float32), gaps


@pytest.fixture(scope="module")
def spoken():
    return joined(240, 0.8)


def test_cuts_of_speech_lie_in_its_pauses(audio, spoken):
    samples, gaps = spoken
    cutter = Cutter(audio, len(samples) / RATE, 6)
    cuts = cutter.push(samples) + cutter.finish()
    assert 4 <= len(cuts) <= 6
    for cut in cuts:
        assert any(first < 1280 * cut.token < end for first, end in gaps)
        assert 0 < cut.silent_before <= 12
        assert 0 < cut.silent_after <= 12


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 400_000), max_size=20))
def test_sizes_of_blocks_do_not_matter(audio, spoken, sizes):
    samples, _ = spoken
    whole, parts = (Cutter(audio, len(samples) / RATE, 6) for _ in range(2))
    expected, found, at = whole.push(samples) + whole.finish(), [], 0
    for size in [*sizes, len(samples)]:
        found += parts.push(samples[at : at + size])
        at += size
    assert found + parts.finish() == expected


def test_cuts_are_decided_before_the_recording_ends(audio, spoken):
    samples, _ = spoken
    cutter = Cutter(audio, len(samples) / RATE, 6)
    early = cutter.push(samples[: len(samples) // 2])
    assert len(early) >= 2


def test_memory_does_not_grow(audio):
    """Whether there is silence or not; ten hours of it."""
    for runs in ([(40, 31)], [(40, 5)], [(0, 710)]):
        cutter = Cutter(audio, 36000, 64)
        cutter._finder = Scripted()  # pyright: ignore[reportAttributeAccessIssue]: what is silent
        most = 0
        for _ in range(0, 36000 * 50, 71 * 100):
            cutter.push(frames_of(runs * (7100 // sum(map(sum, runs)))))
            most = max(most, len(cutter._silences))
        assert most <= 300 * 50 // 71 + 200
