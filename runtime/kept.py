"""Continuation of an interrupted transcription after the segments and tokens that were kept.

The new stream does not begin exactly where the old one ended. It processes the last part of the
known audio again, with the kept tokens in place of new ones, so that it has the same context and
writes the rest as the interrupted stream would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..manifest import Manifest, Tokens
from .grid import EncoderGrid
from .text.segments import Grouper, Segment
from .tokens import Token

# Known audio that is processed again, at least; docs/outputs.md has the effect of shorter ones
LEAD_SECONDS = 20.48
# Tokens on either side of its start that should be blanks, so that no word is cut
QUIET_TOKENS = 10


@dataclass(frozen=True, slots=True)
class Kept:
    """The segments and tokens of the beginning of a recording, from its journal."""

    segments: tuple[Segment, ...] = ()
    token_ids: tuple[int, ...] = ()  # of all positions so far, blanks included
    # Where runs have continued, in seconds; the last is the end of what is kept
    resumed_at: tuple[float, ...] = ()
    samples_per_token: int = 0
    sample_rate: int = 1
    lead_in: int = 0  # index of the first token whose audio is processed again

    @property
    def start(self) -> float:
        """Return how many seconds of the recording are kept, at whose end the rest begins."""
        return self._seconds(len(self.token_ids))

    @property
    def heard_from(self) -> float:
        """Return the time, in seconds, from which on the recording is processed again."""
        return self._seconds(self.lead_in)

    @property
    def given_ids(self) -> tuple[int, ...]:
        """Return the kept tokens of the audio that is processed again."""
        return self.token_ids[self.lead_in :]

    def rest(self, tokens: Iterator[Token]) -> Iterator[Token]:
        """Yield a stream's tokens after the kept ones, with index and time in the recording."""
        if not self.token_ids:
            yield from tokens
            return
        for token in tokens:
            index = token.index + self.lead_in
            if index >= len(self.token_ids):
                yield replace(token, index=index, end=self._seconds(index + 1))

    def grouper(self, ids: Tokens) -> Grouper:
        """Return a grouper that continues the kept segments with the rest of the tokens."""
        if not self.segments:
            return Grouper(ids)
        is_begun = self.token_ids[-1] == ids.streaming_word  # which marks the next segment
        marker_end = self.start if is_begun else None
        return Grouper(ids, len(self.segments), self.segments[-1].end, marker_end)

    def _seconds(self, num_tokens: int) -> float:
        return num_tokens * self.samples_per_token / self.sample_rate


NOTHING = Kept()


def keep(
    manifest: Manifest,
    grid: EncoderGrid,
    segments: Sequence[Segment],
    token_ids: Sequence[int],
    resumed_at: Sequence[float],
) -> Kept:
    """Return a beginning, with the place from which on its audio is processed again.

    Args:
        manifest: of the model.
        grid: of the encoder's calls.
        segments: those that are kept.
        token_ids: of all positions up to the end of the last segment.
        resumed_at: where earlier runs have continued, in seconds.
    """
    audio = manifest.config.audio
    lead_in = find_lead_in(
        token_ids,
        manifest.tokens,
        period=grid.period,
        least=round(LEAD_SECONDS * audio.sample_rate / audio.samples_per_token),
    )
    kept = Kept(
        tuple(segments),
        tuple(token_ids),
        tuple(resumed_at),
        audio.samples_per_token,
        audio.sample_rate,
        lead_in,
    )
    return replace(kept, resumed_at=(*resumed_at, kept.start))


def find_lead_in(token_ids: Sequence[int], ids: Tokens, *, period: int, least: int) -> int:
    """Return the index of the first token whose audio is to be processed again.

    It is the place, between `least` and twice `least` tokens before the end (or a `period` more
    than `least`), with the fewest tokens of text around it; 0 if there is no such place.

    Args:
        token_ids: all that are kept.
        ids: of the special tokens.
        period: the place must be a multiple of it, so that the encoder's calls and the shifts of
            its cache happen at the same samples as before; otherwise embeddings differ slightly.
        least: tokens to be processed again.
    """
    last = len(token_ids) - least
    if last <= 0:
        return 0

    def words_near(place: int) -> int:
        near = token_ids[max(0, place - QUIET_TOKENS) : place + QUIET_TOKENS]
        return sum(token_id != ids.streaming_pad for token_id in near)

    first = max(0, last - max(least, period))
    places = range(last - last % period, first - 1, -period)
    return min(places, key=words_near, default=0)
