"""What is kept of a recording that was interrupted, and how a stream goes on behind it.

A stream that goes on hears a stretch of what it follows once more and takes the tokens that were
kept as its own, so that it writes the rest as the interrupted one would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm

from ..manifest import Manifest, Tokens
from .text.segments import Grouper, Segment
from .tokens import Token

LEAD_SECONDS = 20.48  # heard again, at least; docs/outputs.md says what a shorter one costs
QUIET_TOKENS = 10  # on either side of where it begins: a word is hardly longer


@dataclass(frozen=True, slots=True)
class Kept:
    """The beginning of a recording, as its journal has it."""

    segments: tuple[Segment, ...] = ()
    token_ids: tuple[int, ...] = ()  # of all positions so far, blanks included
    resumed_at: tuple[float, ...] = ()  # seconds; the last is where the rest begins
    samples_per_token: int = 0
    sample_rate: int = 1
    lead_in: int = 0  # the token from which on the recording is heard again

    @property
    def start(self) -> float:
        """Return the seconds that are kept."""
        return self._seconds(len(self.token_ids))

    @property
    def heard_from(self) -> float:
        """Return the seconds behind which the recording is heard again."""
        return self._seconds(self.lead_in)

    @property
    def given_ids(self) -> tuple[int, ...]:
        """Return the tokens that a stream is given, of what it hears again."""
        return self.token_ids[self.lead_in :]

    def rest(self, tokens: Iterator[Token]) -> Iterator[Token]:
        """Yield those tokens of a stream that are not kept yet, as tokens of the recording."""
        if not self.token_ids:
            yield from tokens
            return
        for token in tokens:
            index = token.index + self.lead_in
            if index >= len(self.token_ids):
                yield replace(token, index=index, end=self._seconds(index + 1))

    def grouper(self, ids: Tokens) -> Grouper:
        """Return what groups the tokens of the rest."""
        if not self.segments:
            return Grouper(ids)
        is_begun = self.token_ids[-1] == ids.streaming_word  # the marker of the next segment
        marker_end = self.start if is_begun else None
        return Grouper(ids, len(self.segments), self.segments[-1].end, marker_end)

    def _seconds(self, num_tokens: int) -> float:
        return num_tokens * self.samples_per_token / self.sample_rate


NOTHING = Kept()


def keep(
    manifest: Manifest,
    segments: Sequence[Segment],
    token_ids: Sequence[int],
    resumed_at: Sequence[float],
) -> Kept:
    """Return what is kept, and where a stream that goes on behind it begins to hear.

    Args:
        manifest: of the model.
        segments: all that are kept.
        token_ids: of the positions up to the last segment's end.
        resumed_at: where the rest began, when it was taken up before; seconds.
    """
    audio, encoder = manifest.config.audio, manifest.caches["encoder"]
    between_shifts = (encoder.capacity - encoder.keep) // encoder.rows_per_token
    lead_in = find_lead_in(
        token_ids,
        manifest.tokens,
        grid=lcm(manifest.streaming.max_chunk_tokens, between_shifts),
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


def find_lead_in(token_ids: Sequence[int], ids: Tokens, *, grid: int, least: int) -> int:
    """Return the token from which on a recording is heard again.

    It is the quietest place between `least` and twice as many tokens before the end, where the
    fewest words stand just before and behind; the beginning, where there is no such place.

    Args:
        token_ids: all that is kept.
        ids: of the special tokens.
        grid: tokens after which the encoder's calls, and the shifts of its cache, fall as they
            fell: other calls give slightly other embeddings.
        least: tokens to be heard again.
    """
    last = len(token_ids) - least
    if last <= 0:
        return 0

    def words_near(place: int) -> int:
        near = token_ids[max(0, place - QUIET_TOKENS) : place + QUIET_TOKENS]
        return sum(token_id != ids.streaming_pad for token_id in near)

    first = max(0, last - least)
    places = range(last - last % grid, first - 1, -grid)
    return min(places, key=words_near, default=0)
