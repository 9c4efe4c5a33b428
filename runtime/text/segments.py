"""Tokens to segments with times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...manifest import Tokens
from ..tokens import Alternative, Token

LONGEST_WORD_SECONDS = 0.8  # mistral-common's OFFLINE_STREAMING_BUFFER_TOKENS, ten tokens


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


def group(tokens: Iterable[Token], ids: Tokens) -> Iterator[Segment]:
    """Segments as soon as they are closed.

    At the next marker that is followed by text, or at the end.
    """
    count, previous_end = 0, 0.0
    marker_end: float | None = None
    texts: list[Token] = []

    def close() -> Segment:
        nonlocal count, previous_end, texts
        end = texts[0].end if marker_end is None else marker_end
        segment = Segment(
            id=count,
            start=max(previous_end, end - LONGEST_WORD_SECONDS),
            end=end,
            text="".join(token.text for token in texts),
            token_ids=tuple(token.token_id for token in texts),
            logprob=sum(token.logprob for token in texts) / len(texts),
            alternatives=tuple(token.alternatives for token in texts if token.alternatives),
        )
        count, previous_end, texts = count + 1, end, []
        return segment

    for token in tokens:
        if token.token_id == ids.streaming_word:
            if texts:
                yield close()
            marker_end = token.end
        elif token.token_id >= ids.first_text or token.text:
            texts.append(token)
    if texts:
        yield close()
