"""Tokens to segments with times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ...manifest import Tokens
from ..tokens import Alternative, Token

LONGEST_WORD_SECONDS = 0.8  # mistral-common's OFFLINE_STREAMING_BUFFER_TOKENS, ten tokens
LAST_SECONDS = 0.08  # of the audio, into which all times behind it are brought: a token's


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment, mostly a word: what the model says between two [STREAMING_WORD] markers.

    Often a word, sometimes more.

    `end` is where the model says that the group ended, within one or two tokens of 80 ms. The model
    does not say where a group began: `start` is the end of the group before, but at most the
    longest word's length before `end`.
    """

    id: int
    start: float  # seconds
    end: float
    text: str  # as the tokens spell it, with the space it begins with
    token_ids: tuple[int, ...]
    logprob: float  # mean over the group's text tokens
    # To each of the text tokens, where they are asked for
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    channel: int | None = None  # from 0, where channels are transcribed each on its own

    def __repr__(self) -> str:
        return f"Segment({self.id}: {self.start:.2f}-{self.end:.2f} s {self.text!r})"


class Grouper:
    """Collects tokens into segments, each closed at the next marker that follows text."""

    def __init__(
        self,
        ids: Tokens,
        count: int = 0,
        previous_end: float = 0.0,
        marker_end: float | None = None,
    ):
        """Begin a text, or go on behind `count` segments, the last of which ended there.

        `marker_end` is that of the next segment's marker, where it stands before what is pushed.
        """
        self._ids, self._count, self._previous_end = ids, count, previous_end
        self._marker_end = marker_end
        self._texts: list[Token] = []

    def push(self, token: Token) -> Segment | None:
        """Take the next token, and return the segment that it closes."""
        if token.token_id == self._ids.streaming_word:
            segment, self._marker_end = self.end(), token.end
            return segment
        if token.token_id >= self._ids.first_text or token.text:
            self._texts.append(token)
        return None

    def end(self) -> Segment | None:
        """Return the segment that is still open."""
        texts, self._texts = self._texts, []
        if not texts:
            return None
        end = texts[0].end if self._marker_end is None else self._marker_end
        segment = Segment(
            id=self._count,
            start=max(self._previous_end, end - LONGEST_WORD_SECONDS),
            end=end,
            text="".join(token.text for token in texts),
            token_ids=tuple(token.token_id for token in texts),
            logprob=sum(token.logprob for token in texts) / len(texts),
            alternatives=tuple(token.alternatives for token in texts if token.alternatives),
        )
        self._count, self._previous_end = self._count + 1, end
        return segment


def group(tokens: Iterable[Token], grouper: Grouper) -> Iterator[Segment]:
    """Yield segments as soon as they are closed: at the next marker, or at the end."""
    for token in tokens:
        if segment := grouper.push(token):
            yield segment
    if segment := grouper.end():
        yield segment


def within(segment: Segment, duration: float) -> Segment:
    """Return a segment that ends with the audio, at the latest, and lasts.

    Tokens of the silence behind the audio stand for words at its very end. Times from the audio's
    last 80 ms on are brought into these, in their order, so that no segment is left without time.
    """
    room = min(LAST_SECONDS, duration)

    def bring(seconds: float) -> float:
        beyond = seconds - (duration - room)
        return duration - room + room * beyond / (room + beyond) if beyond > 0 else seconds

    return replace(segment, start=bring(segment.start), end=bring(segment.end))
