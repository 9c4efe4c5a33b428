"""Say which positions the decoder of a piece runs, and which of its tokens are kept.

All numbers are those of the uncut run (MODEL.md): behind P tokens of silence and with a delay of D,
token k stands for the k-th 80 ms of the audio. It is sampled at position `P + D + k`, which adds
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
  token `begin + k`, with that token's time, and adds the embedding that it has in the uncut run.
- Token `end - 1` is the last that is kept. After it come `checked` tokens more, which must be
  blanks: otherwise a word ends after the cut, which the next piece would not write whole.

So the kept tokens of all pieces are those of the uncut run, one for each index. Two neighbours both
take `D + 1 + checked` embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

NUM_CHECKED = 10  # tokens beyond its end that a piece writes, which must be blanks


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a recording that a decoder writes on its own."""

    begin: int  # index of its first token
    end: int | None  # of the next piece's first token; None if there is none, or none is known yet
    left_pad_tokens: int  # of the model
    num_delay_tokens: int
    blanks: int = 0  # that count as written before it, for the blank guard

    @property
    def first_position(self) -> int:
        """Return the position, of the uncut run, whose embedding it takes first."""
        return self.left_pad_tokens - 1 + self.begin

    @property
    def first_sampled(self) -> int:
        """Return the position, of the uncut run, at which it samples its first token."""
        return self.position_of(self.begin)

    def position_of(self, token: int) -> int:
        """Return the position, of the uncut run, at which a token is sampled."""
        return self.left_pad_tokens + self.num_delay_tokens + token

    def own(self, position: int) -> int:
        """Return its decoder's number for a position of the uncut run."""
        return position - self.begin

    def positions(self, num_positions: int, checked: int) -> range:
        """Return the positions, of the uncut run, whose embeddings it takes.

        Args:
            num_positions: of the uncut run.
            checked: tokens that it writes after its own.
        """
        if self.end is None:
            return range(self.first_position, num_positions)
        stop = self.position_of(self.end + checked)
        return range(self.first_position, min(stop, num_positions))

    def keeps(self, token: int) -> bool:
        """Return whether a token that it writes is one of its own."""
        return self.end is None or token < self.end
