"""A watch over the input of a live stream, and over whether the model keeps up with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .metrics import StreamMetrics

BEHIND_SECONDS = 2.0  # of audio that may wait without a warning
GROWING_SECONDS = 5.0  # for which the audio that waits must have grown before a warning
MUTED_SECONDS = 5.0  # of zero samples, before a warning
CLIPPED = 0.999  # of full scale; the largest value of an audio converter is just below 1


class Watch:
    """A watch over the level and the pace of a live stream, which warns once of each problem."""

    def __init__(self, rate: int):
        self.rate, self.reported = rate, set[str]()
        self.zeros = 0  # zero samples in a row up to now
        self.began: float | None = None  # time of the first block
        # Since when audio waits, and how many seconds it was then
        self.behind_since: tuple[float, float] | None = None

    def inspect(self, block: np.ndarray) -> Iterator[str]:
        """Yield warnings about the samples of a block: digital silence, and clipping."""
        if self._longest_zeros(block) >= MUTED_SECONDS * self.rate:
            yield from self._once(
                f"the input has been digital silence for {MUTED_SECONDS:.0f} s: is it muted?"
            )
        levels = np.abs(block)
        if len(block) and levels.max() >= CLIPPED and (levels >= CLIPPED).mean() > 0.01:
            yield from self._once("the input exceeds full scale: turn it down")

    def _longest_zeros(self, block: np.ndarray) -> int:
        """Return the longest run of zeros that ends in a block, or goes on behind it."""
        if len(block) and block[0] and block[-1] and len(block) < MUTED_SECONDS * self.rate:
            found, self.zeros = self.zeros, 0  # any other run is shorter than the block
            return found
        edges = np.concatenate(([-1 - self.zeros], np.flatnonzero(block), [len(block)]))
        self.zeros = int(edges[-1] - edges[-2]) - 1
        return int(np.diff(edges).max()) - 1

    def inspect_pace(self, metrics: StreamMetrics, now: float) -> Iterator[str]:
        """Yield a warning if the model falls further and further behind the speech.

        There is none if a pipe brings audio faster than it was spoken, or if the machine was slow
        for a moment and catches up.

        Args:
            metrics: of the stream.
            now: time of this block on a clock, in seconds.
        """
        self.began = now if self.began is None else self.began
        behind = min(metrics.captured, now - self.began) - metrics.transcribed
        if behind <= BEHIND_SECONDS:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now, behind
        elif now - self.behind_since[0] >= GROWING_SECONDS and behind > self.behind_since[1]:
            yield from self._once(
                f"more than {BEHIND_SECONDS:.0f} s behind: this machine is slower than the speech; "
                "text comes late, nothing is lost"
            )

    def _once(self, text: str) -> Iterator[str]:
        if text not in self.reported:
            self.reported.add(text)
            yield text
