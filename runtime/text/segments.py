"""Grouping of tokens into segments with times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ...manifest import Tokens
from ..tokens import Alternative, Token

LONGEST_WORD_SECONDS = 0.8  # ten tokens, mistral-common's OFFLINE_STREAMING_BUFFER_TOKENS
# At the end of the audio, a token's length, into which times beyond the end are compressed
LAST_SECONDS = 0.08


@dataclass(frozen=True, slots=True)
class Segment:
    """The text that the model writes between two [STREAMING_WORD] markers: a word, sometimes more.

    The model marks where a segment ends, within one or two tokens of 80 ms: that is `end`. It does
    not mark where one starts: `start` is the end of the previous segment, but at most 0.8 s (the
    length of a long word) before `end`.
    """

    id: int  # from 0, in the order of the text
    start: float  # seconds
    end: float
    text: str  # as the tokens spell it, usually with a space before it
    token_ids: tuple[int, ...]
    logprob: float  # mean over its text tokens; natural logarithm
    # The likeliest tokens in place of each text token, if any were asked for
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    channel: int | None = None  # from 0, if channels are transcribed separately

    def __repr__(self) -> str:
        return f"Segment({self.id}: {self.start:.2f}-{self.end:.2f} s {self.text!r})"


class Grouper:
    """A collector of tokens, which closes a segment at the next marker after its text."""

    def __init__(
        self,
        ids: Tokens,
        count: int = 0,
        previous_end: float = 0.0,
        marker_end: float | None = None,
    ):
        """Begin a text, or continue one.

        Args:
            ids: of the special tokens.
            count: segments that the text already has.
            previous_end: end of the last of them, in seconds.
            marker_end: end of the marker that belongs to the next segment, in seconds, if it was
                written before the first token that will be pushed.
        """
        self._ids, self._count, self._previous_end = ids, count, previous_end
        self._marker_end = marker_end
        self._texts: list[Token] = []

    def push(self, token: Token) -> Segment | None:
        """Take the next token; return the segment that it closes, if it closes one."""
        if token.token_id == self._ids.streaming_word:
            segment, self._marker_end = self.end(), token.end
            return segment
        if token.token_id >= self._ids.first_text or token.text:
            self._texts.append(token)
        return None

    def end(self) -> Segment | None:
        """Close the segment that is still open, if there is one, and return it."""
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
        self._count, self._previous_end, self._marker_end = self._count + 1, end, None
        return segment


def group(tokens: Iterable[Token], grouper: Grouper) -> Iterator[Segment]:
    """Yield segments as soon as they are closed, by the next marker or the end of the tokens."""
    for token in tokens:
        if segment := grouper.push(token):
            yield segment
    if segment := grouper.end():
        yield segment


def within(segment: Segment, duration: float) -> Segment:
    """Return a segment with times that lie inside the audio, of `duration` seconds.

    The last words may be written at tokens of the silence that is appended to the audio. All times
    after the start of its last 80 ms are therefore compressed into these 80 ms. Their order stays,
    so every segment still has a length above zero.
    """
    room = min(LAST_SECONDS, duration)

    def bring(seconds: float) -> float:
        beyond = seconds - (duration - room)
        return duration - room + room * beyond / (room + beyond) if beyond > 0 else seconds

    return replace(segment, start=bring(segment.start), end=bring(segment.end))
