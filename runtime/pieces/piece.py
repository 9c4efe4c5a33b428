"""Say which positions the decoder of a piece runs, and which of its tokens are kept.

All numbers are those of the uncut run (MODEL.md): behind P tokens of silence and with a delay of D,
token k stands for the k-th 80 ms of the audio. It is sampled at position `P + D + k`, which takes
the embedding of audio `D + k`, and is the input of the next position. The inputs of positions 0 to
`P + D`, the prompt, are known: the beginning of text, then blanks.

The decoder of a piece, which writes tokens `begin` to `end - 1`, runs as if the recording began
there:

- The first P - 1 positions are of silence alone, so all recordings have them in common: the silent
  prefix, copied or run.
- Then it takes the uncut run's embeddings from position `P - 1 + begin` on; its own position is
  lower by `begin`. The first D + 2 of them are the rest of the prompt, with blanks as input. The
  very first is of the audio before the cut, in place of the last of the silence.
- At the last position of its prompt, `P + D + begin`, it samples token `begin`. Its k-th token is
  token `begin + k`, with its time, and takes the embedding that it has in the uncut run.
- Token `end - 1` is the last that is kept. After it come `checked` tokens more, which must be
  blanks: otherwise a word ends after the cut, and the next piece, which has not heard all of it,
  would not write it.

So the kept tokens of all pieces are those of the uncut run, one for each index. Two neighbours both
take `D + 1 + checked` embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .cutter import Cut

# Tokens to be checked, as many as the right padding has for the end of a word. No more than the
# silence lasts, because the next word may follow it.
MOST_CHECKED = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a recording that a decoder writes on its own."""

    left_pad_tokens: int  # of the model
    num_delay_tokens: int
    begin: int = 0  # index of its first token
    end: int | None = None  # of the next piece's; None if there is none, or none is known yet
    blanks: int = 0  # that count as written before it, for the blank guard
    checked: int = 0  # tokens that it writes after its own

    def split(self, cut: Cut) -> tuple[Piece, Piece]:
        """Return what is left of a cut, and the piece that begins there."""
        checked = min(cut.silent_after, MOST_CHECKED)
        return (
            replace(self, end=cut.token, checked=checked),
            replace(self, begin=cut.token, blanks=cut.silent_before),
        )

    def join(self, right: Piece) -> Piece:
        """Return this piece going on to the end of the next, as if nothing were cut between."""
        return replace(self, end=right.end, checked=right.checked)

    def position_of(self, token: int) -> int:
        """Return the position, of the uncut run, at which a token is sampled."""
        return self.left_pad_tokens + self.num_delay_tokens + token

    def own(self, position: int) -> int:
        """Return the number that its decoder has for a position of the uncut run."""
        return position - self.begin

    def positions(self, num_positions: int) -> range:
        """Return the positions, of the uncut run, whose embeddings it takes.

        Args:
            num_positions: of the uncut run, or of as much of it as is encoded.
        """
        first = self.left_pad_tokens - 1 + self.begin
        stop = num_positions if self.end is None else self.position_of(self.end + self.checked)
        return range(first, min(stop, num_positions))
