"""Capture of audio in a thread of its own, and the times at which samples have arrived.

What is captured is kept until the model takes it, so nothing is lost if the model falls behind. It
then takes everything that waits at once, in larger chunks, in which the encoder is faster.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from time import perf_counter

import numpy as np

from ..audio.samples import check_samples


class Arrivals:
    """The times at which the samples of a stream have arrived; threads may share it."""

    def __init__(self):
        self.num_samples = 0  # arrived so far
        self._lock = threading.Lock()
        # Of each block the number of samples up to its end, and the time
        self._blocks = deque[tuple[int, float]]()

    def add(self, num_samples: int, time: float) -> None:
        """Note that so many more samples arrived at a time, on the clock of `perf_counter`."""
        with self._lock:
            self.num_samples += num_samples
            self._blocks.append((self.num_samples, time))

    def time_of(self, num_samples: int) -> float:
        """Return the time at which that many samples had arrived.

        Earlier times are forgotten, so ask for rising numbers only, and for none before it came.
        """
        with self._lock:
            while len(self._blocks) > 1 and self._blocks[0][0] < num_samples:
                self._blocks.popleft()
            return self._blocks[0][1]


class Capture:
    """Captured audio: a thread takes blocks of samples and notes when each has arrived."""

    def __init__(self, blocks: Iterator[np.ndarray], notes: SimpleQueue[str] | None = None):
        """Start the thread.

        Args:
            blocks: float [n] at the model's rate, full scale 1, as they are recorded.
            notes: a queue to which the source of the blocks adds sentences for the user.
        """
        self.arrivals = Arrivals()
        self.error: BaseException | None = None  # with which the source has failed
        self._notes = notes or SimpleQueue[str]()
        self._blocks, self._ready = blocks, threading.Condition()
        self._waiting: list[np.ndarray] = []
        self._ended = False
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Take no more blocks; those captured before can still be iterated."""
        with self._ready:
            self._ended = True
            self._ready.notify()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all samples that wait, joined, as soon as there are some, until the source ends.

        It ends alike if the source has failed; look at `error` then.
        """
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._waiting or self._ended)
                waiting, self._waiting = self._waiting, []
            if not waiting:
                return
            yield np.concatenate(waiting)

    def notes(self) -> Iterator[str]:
        """Yield the sentences that the source has added since the last call."""
        while not self._notes.empty():
            yield self._notes.get()

    def _run(self) -> None:
        try:
            for block in self._blocks:
                samples = check_samples(block)
                with self._ready:
                    if self._ended:
                        return
                    self._waiting.append(samples)
                    self.arrivals.add(len(samples), perf_counter())
                    self._ready.notify()
        except BaseException as error:  # raised when all that was captured is transcribed
            with self._ready:
                if not self._ended:  # what fails because it is no longer read is no loss
                    self.error = error
        finally:
            self.stop()
