"""Decide where the decoder of one long recording is cut, while its samples are still read.

Pieces are as short as silence allows until they fill the decoder's slots. The rules, in order, for
the end of the piece that has begun last:

1. Around the length that is aimed at: the longest silence of a second or more.
2. Failing that, from there on: the longest of 0.6 seconds or more, as soon as there is any.
3. After five minutes without any: the longest of them all, however short the piece becomes.
4. After ten minutes without any: the recording goes on whole from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np

from ...config import AudioConfig
from .silence import FRAMES_PER_SECOND, SilenceFinder

PREFERRED_SECONDS, LEGAL_SECONDS = 1.0, 0.6  # of silence
# The lengths of pieces that are aimed at: each runs a prompt, so shorter ones would be dear
SHORTEST_AIM_SECONDS, LONGEST_AIM_SECONDS = 24.0, 240.0
LEAST_SLACK_SECONDS, SLACK_SHARE = 8.0, 1 / 8  # on either side of that length
LATE_SLACKS = 2  # by which a piece is longer, at most, where it could end in shorter silence
LONGEST_SECONDS = 300.0  # of a piece, where there is silence to end it
LEAST_SECONDS = 5.0  # of any piece but the last
WHOLE_AFTER_SECONDS = 600.0  # without silence


@dataclass(frozen=True, slots=True)
class Cut:
    """A place in silence between two pieces of a recording, in tokens of 80 ms."""

    token: int  # index of the first token of the right piece
    silent_before: int  # whole tokens of silence before it, those of earlier pieces included
    silent_after: int  # from it on, as far as was known when it was decided


class Cutter:
    """A planner of the cuts of one recording, which keeps none of its samples.

    The cuts do not depend on how the samples are divided into blocks.
    """

    def __init__(self, audio: AudioConfig, duration: float, num_slots: int):
        """Begin a recording.

        Args:
            audio: of the model.
            duration: of the recording in seconds; a wrong one only makes pieces shorter or longer.
            num_slots: decoder slots that its pieces may fill.
        """
        self._finder = SilenceFinder(audio.sample_rate)
        self._token_seconds = audio.samples_per_token / audio.sample_rate
        self._duration, self._num_pieces = duration, count_pieces(duration, num_slots)
        self._num_cuts = 0
        self._begin = 0.0  # of the last piece, in seconds
        self._num_frames = 0  # judged
        # First frame and end of silences, the last of which may go on or be too short
        self._silences: deque[list[int]] = deque()
        self.whole_from: float | None = None  # seconds; from there on nothing is cut

    def push(self, samples: np.ndarray) -> list[Cut]:
        """Take the next samples, float32 [n] at the model's rate, and return the cuts decided."""
        return self._take(self._finder.push(samples)) if self.whole_from is None else []

    def finish(self) -> list[Cut]:
        """End the recording, and return the cuts that were left to decide."""
        if self.whole_from is not None:
            return []
        cuts = self._take(self._finder.finish())
        # Silence at the end parts nothing
        if self._silences and self._silences[-1][1] == self._num_frames:
            self._silences.pop()
        return cuts + self._decided(is_whole=True)

    def _take(self, judged: Iterable[np.ndarray]) -> list[Cut]:
        cuts = []
        for is_silent in judged:
            self._note(is_silent)
            cuts += self._decided()
            if self.whole_from is not None:
                break
        return cuts

    def _note(self, is_silent: np.ndarray) -> None:
        """Add the silence among the next frames, bool [n]."""
        edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False))
        for first, end in (edges + self._num_frames).reshape(-1, 2).tolist():
            last = self._silences[-1] if self._silences else [0, -1]
            if last[1] == first:
                last[1] = end
                continue
            if self._silences and not _is_legal(last):
                self._silences.pop()
            self._silences.append([first, end])
        self._num_frames += len(is_silent)

    def _decided(self, *, is_whole: bool = False) -> list[Cut]:
        """Return the next cuts, as far as what is known decides them."""
        cuts = []
        while cut := self._decide(self._num_frames / FRAMES_PER_SECOND, is_whole):
            cuts.append(cut)
            self._begin, self._num_cuts = cut.token * self._token_seconds, self._num_cuts + 1
            while self._silences and self._silences[0][1] < self._begin * FRAMES_PER_SECOND:
                self._silences.popleft()
        return cuts

    def _decide(self, now: float, is_whole: bool) -> Cut | None:
        # Find the limits of the length that is aimed at; a number of pieces of equal length are
        pieces_left = max(1, self._num_pieces - self._num_cuts)
        aim = (self._duration - self._begin) / pieces_left
        aim = min(LONGEST_AIM_SECONDS, max(SHORTEST_AIM_SECONDS, aim))
        slack = max(LEAST_SLACK_SECONDS, SLACK_SHARE * aim)
        length = now - self._begin

        # Look for silence, in the order of the rules
        if length < aim + slack:
            return None
        cut = self._longest(aim - slack, aim, aim + slack, PREFERRED_SECONDS)
        in_time = min(length, LONGEST_SECONDS)
        if not cut and (is_whole or length >= min(aim + LATE_SLACKS * slack, LONGEST_SECONDS)):
            cut = self._longest(aim - slack, aim, in_time, LEGAL_SECONDS)
        if not cut and length >= LONGEST_SECONDS:
            cut = self._longest(LEAST_SECONDS, aim, in_time, LEGAL_SECONDS)
        if not cut and length >= LONGEST_SECONDS:
            cut = self._longest(LEAST_SECONDS, aim, length, LEGAL_SECONDS)
        if not cut and length >= WHOLE_AFTER_SECONDS and not is_whole:
            self.whole_from = self._begin
        return cut

    def _longest(self, shortest: float, aim: float, longest: float, least: float) -> Cut | None:
        """Return a cut in the longest silence that ends the piece at a length within limits.

        Of silences of one length it is the one at which the piece's length is nearest to the aim.

        Args:
            shortest: seconds of the piece.
            aim: likewise.
            longest: likewise.
            least: seconds that the silence must last.
        """
        # Rounded, because 5 s after 100.32 s would be a bit more than 5,266 frames
        low, aimed, high = (
            round((self._begin + length) * FRAMES_PER_SECOND, 6)
            for length in (shortest, aim, longest)
        )
        margin = LEGAL_SECONDS / 2 * FRAMES_PER_SECOND

        def place(silence: list[int]) -> float:
            """Return the middle, or what is nearest to it and to the limits, in frames."""
            first, end = silence
            return max(min((first + end) / 2, max(high, first + margin)), min(low, end - margin))

        found = [
            silence
            for silence in self._silences
            if silence[1] - silence[0] >= least * FRAMES_PER_SECOND
            and low <= place(silence) <= high
        ]
        if not found:
            return None
        first, end = silence = max(found, key=lambda s: (s[1] - s[0], -abs(place(s) - aimed)))
        frames = self._token_seconds * FRAMES_PER_SECOND  # of a token
        token = round(place(silence) / frames)
        return Cut(token, int(token - first / frames), int(end / frames - token))


def count_pieces(duration: float, num_slots: int) -> int:
    """Return the number of pieces of a recording of so many seconds.

    It is that of the slots, or a multiple of it where pieces would become too long; fewer where
    they would become too short.
    """
    rounds = max(1, ceil(duration / (num_slots * LONGEST_AIM_SECONDS)))
    return max(1, min(rounds * num_slots, int(duration / SHORTEST_AIM_SECONDS)))


def _is_legal(silence: list[int]) -> bool:
    return silence[1] - silence[0] >= LEGAL_SECONDS * FRAMES_PER_SECOND
