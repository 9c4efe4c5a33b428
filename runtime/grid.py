"""The grid of encoder calls: where the calls for a recording begin and end.

In quantised precisions audio embeddings depend slightly on how many tokens a call encodes. So the
calls for a recording follow from the position alone, by one rule for each kind of device, whether
it is transcribed alone, beside others or in pieces. Live streams encode what has come instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..manifest import CacheSpec, Manifest


@dataclass(frozen=True, slots=True)
class EncoderGrid:
    """The rule by which a recording's tokens are divided into calls of the encoder."""

    first: int  # tokens of the silence before all audio, whose state is computed once
    chunk: int  # tokens of each call after them; the last may be shorter
    sizes: tuple[int, ...]  # of calls, rising; a recording's last call is padded to one
    spec: CacheSpec  # of the encoder's cache, whose shifts fall between two calls

    @classmethod
    def of(
        cls, manifest: Manifest, sizes: tuple[int, ...], calls_between_shifts: int
    ) -> EncoderGrid:
        """Return the grid for calls that suit a device.

        Args:
            manifest: of the model.
            sizes: tokens of a call, rising; the last is that of all calls but a recording's last.
            calls_between_shifts: more take memory, and save time.
        """
        chunk = sizes[-1]
        rules, base = manifest.streaming, manifest.caches["encoder"]
        per_token = manifest.config.audio.samples_per_token
        first = max(0, rules.left_pad_tokens - _ceil(rules.look_ahead_samples, per_token))
        kept = first + chunk * max(0, _ceil(base.keep // base.rows_per_token - first, chunk))
        spec = replace(
            base,
            keep=kept * base.rows_per_token,
            capacity=(kept + calls_between_shifts * chunk) * base.rows_per_token,
        )
        return cls(first, chunk, sizes, spec)

    def next_end(self, position: int) -> int:
        """Return where the call that begins at a position ends, both in tokens."""
        if position < self.first:
            return min(self.first, position + self.chunk)
        return position + self.chunk - (position - self.first) % self.chunk

    def call_size(self, tokens: int) -> int:
        """Return how many tokens the call encodes that has so many to encode."""
        return min((size for size in self.sizes if size >= tokens), default=tokens)

    @property
    def period(self) -> int:
        """Return the tokens from one shift of the cache to the next, a multiple of `chunk`."""
        return (self.spec.capacity - self.spec.keep) // self.spec.rows_per_token


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
