"""Turns of a conversation: when somebody has begun to speak, and when they have finished.

Two signals tell. The sound becomes quiet at once when somebody has finished; in noise, the model
writes blanks, later by its delay. An end that the sound tells depends on the sound alone, and is
reported when the words before it are there. One that the blanks tell holds for the sound from when
it is known, so in noise what follows depends on how far the model is behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

import numpy as np

from ..audio.vad import Energy
from ..text.segments import LONGEST_WORD_SECONDS
from ..tokens import Token
from .events import SpeechStart, Turn, TurnEagerEnd, TurnEnd, TurnResume, TurnStart

EAGER = 0.5  # of the silence that ends a turn, after which its end is likely
LEARNING_SECONDS = 1  # what the noise is; till then every sound may be speech
LEAST_SOUND = 0.06  # seconds: a shorter sound is a click


@dataclass(frozen=True, slots=True)
class TurnRules:
    """When a turn ends."""

    min_silence: float = 0.5  # seconds without speech
    timeout: float = 3.0  # seconds without words, where other sounds are like speech
    level: float = 6.0  # decibels above the noise from which on a sound may be speech


class _Reached(NamedTuple):
    """The end of the tokens of a turn: so many, or up to a time."""

    tokens: float  # as many as the stream has then
    time: float  # of the audio, in seconds, after which none of them ends


class TurnDetector:
    """A detector of the turns in one stream, from its samples and its tokens.

    Samples come first, and tokens when the model has written them. Every token of text is inside a
    turn: `SpeechStart`, `TurnStart` before the text, `TurnEnd` after it.
    """

    def __init__(self, rules: TurnRules, sample_rate: int, report: Callable[[Turn], None]):
        """Begin a stream.

        Args:
            rules: of its turns.
            sample_rate: of its samples, in Hz.
            report: called with each event.
        """
        self.rules, self._report, self._rate = rules, report, sample_rate
        self._detector = Energy(sample_rate, LEARNING_SECONDS)
        self._frame = self._detector.frame
        self._rest = np.zeros(0, np.float32)  # less than a frame

        # What the sound says, in samples of it
        self._heard = 0  # in whole frames
        self._is_loud, self._loud_from = False, 0  # the last frame, and since when
        self._onset = 0.0  # of the last one that is no click, in seconds
        self._in_turn = False
        self._is_armed = True  # it was quiet since the last turn, so that a sound may begin one
        self._sound_end: int | None = None  # of the last sound in the turn; None without any
        self._is_eager = False  # the likely end of the turn was said
        self._is_ending = False  # its end is decided, and `end_turn` is to be called

        # What the tokens say, in seconds
        self._waiting = deque[tuple[_Reached | None, Turn]]()  # events, and until which token
        self._start: float | None = None  # reported, of a turn whose end is not
        self._has_words = False
        self._early: TurnEagerEnd | None = None  # before the first word has come
        self._text_end = 0.0  # of the last text
        self._told = 0.0  # the time of the last event reported

    # What the sound says
    def hear(self, samples: np.ndarray) -> int:
        """Take samples, float32 [n], up to where a turn has ended or all; return how many.

        If a turn `is_ending` then, `end_turn` must be called before more samples are taken.
        """
        num_old = len(self._rest)
        samples = np.concatenate((self._rest, samples))
        for at in range(0, len(samples) - self._frame + 1, self._frame):
            self._judge(self._detector.score(samples[at : at + self._frame]))
            if self._is_ending:
                self._rest = samples[:0]
                return at + self._frame - num_old
        self._rest = samples[len(samples) // self._frame * self._frame :].copy()
        return len(samples) - num_old

    @property
    def is_ending(self) -> bool:
        """Return whether the turn has ended with the samples taken so far."""
        return self._is_ending

    def end_turn(self, num_tokens: int | None = None) -> None:
        """Let the turn that `is_ending` end when all its words have come.

        Args:
            num_tokens: of the stream when it was flushed here; None if it was not.
        """
        assert self._is_ending and self._sound_end is not None
        pause = self._sound_end / self._rate
        reached = _Reached(inf, pause + LONGEST_WORD_SECONDS)
        if num_tokens is not None:
            reached = _Reached(num_tokens, inf)
        self._put(TurnEnd(pause, "threshold"), reached)
        self._close()

    def _judge(self, score: float) -> None:
        """Take the score of the next frame."""
        # Follow the sound, which ends at half of the level
        rules, began, self._heard = self.rules, self._heard, self._heard + self._frame
        if score >= (rules.level / 2 if self._is_loud else rules.level):
            self._loud_from = self._loud_from if self._is_loud else began
            self._is_loud = True
        else:
            self._is_loud, self._is_armed = False, True

        # Begin a turn, or go on with it
        if self._is_loud and self._heard - self._loud_from >= LEAST_SOUND * self._rate:
            self._onset = self._loud_from / self._rate
            if not self._in_turn and self._is_armed:
                self._open(self._onset)
            if self._in_turn:
                self._sound_end = self._heard
            if self._is_eager:
                self._is_eager = False
                self._put(TurnResume(self._onset))
        # Or let it end
        elif self._sound_end is not None:
            quiet = self._heard - self._sound_end
            if not self._is_eager and quiet >= EAGER * rules.min_silence * self._rate:
                self._is_eager = True
                self._put(TurnEagerEnd(self._sound_end / self._rate))
            self._is_ending = quiet >= rules.min_silence * self._rate

    def _open(self, time: float) -> None:
        """Begin a turn with a sound, before which all words of the last one were spoken."""
        self._in_turn = True
        if self._waiting:
            reached, event = self._waiting[-1]
            if reached and reached.tokens == inf:
                self._waiting[-1] = _Reached(inf, min(reached.time, time)), event
        self._put(SpeechStart(time))

    def _close(self) -> None:
        """Forget the turn, as far as the sound tells of it."""
        self._in_turn = self._is_eager = self._is_ending = False
        self._sound_end = None
        self._is_armed = not self._is_loud

    # What the tokens say
    def begin_token(self, token: Token) -> None:
        """Take the next token, before its text is reported."""
        self._reach(token.index, token.end)
        if not token.text:
            return
        word = token.end - LONGEST_WORD_SECONDS  # it began no earlier
        if self._start is None:
            # The words tell of speech that the sound does not
            self._in_turn, self._is_armed = True, False
            self._put(SpeechStart(max(self._text_end, word)))
        if not self._has_words:
            assert self._start is not None
            self._has_words = True
            self._say(TurnStart(max(self._start, word)))
            if self._early:
                self._say(self._early)
                self._early = None
        self._text_end = token.end

    def end_token(self, token: Token) -> None:
        """End the turn if this token, whose text was reported, is its last."""
        self._reach(token.index + 1, token.end)
        if self._waiting or self._start is None:
            return
        words_end = self._text_end if self._has_words else self._start
        steady = token.end - max(words_end, self._onset)  # noise, or a word as long as this
        if self._has_words and steady >= self.rules.min_silence + LONGEST_WORD_SECONDS:
            self._put(TurnEnd(words_end, "threshold"))
            self._close()
        elif token.end - words_end >= self.rules.timeout:
            self._put(TurnEnd(words_end if self._has_words else token.end, "timeout"))
            self._close()

    def finish(self) -> None:
        """End the turn, behind the last token of the stream."""
        self._reach(inf, inf)
        if self._start is not None:
            pause = self._sound_end or self._heard
            self._put(TurnEnd(max(pause / self._rate, self._text_end), "threshold"))
            self._close()

    def _reach(self, count: float, time: float) -> None:
        """Report what has waited for so many tokens, or for the words up to a time."""
        while self._waiting:
            reached, event = self._waiting[0]
            if reached and count < reached.tokens and time < reached.time:
                return
            self._waiting.popleft()
            self._tell(event)

    def _put(self, event: Turn, reached: _Reached | None = None) -> None:
        """Report an event when so much is reached, and behind those that wait."""
        if self._waiting or reached:
            self._waiting.append((reached, event))
        else:
            self._tell(event)

    def _tell(self, event: Turn) -> None:
        """Report an event; a pause before the first word has come is told behind that."""
        match event:
            case SpeechStart():
                self._start = event.time
            case TurnEagerEnd() if not self._has_words:
                self._early = event
                return
            case TurnResume() if not self._has_words:
                self._early = None
                return
            case TurnEnd():
                self._start = self._early = None
                self._has_words = False
        self._say(event)

    def _say(self, event: Turn) -> None:
        """Report an event, no earlier than the one before: words may have ended before a sound."""
        self._told = max(self._told, event.time)
        self._report(replace(event, time=self._told))
