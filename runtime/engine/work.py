"""What the threads of an engine are asked to do besides, and where their time went."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue


@dataclass(slots=True)
class Work:
    """Where the time of engines went, in seconds."""

    encode: float = 0.0
    decode: float = 0.0
    wait: float = 0.0  # the decoder's, for embeddings
    steps: int = 0  # calls of the decoder
    positions: int = 0  # that they advanced


class Jobs:
    """Work for one thread, given by others, which wait for its results."""

    def __init__(self):
        self._waiting = SimpleQueue[tuple[Callable[[], float], Future[float]]]()

    def put(self, work: Callable[[], float]) -> Future[float]:
        """Return the future result of some work."""
        self._waiting.put((work, future := Future[float]()))
        return future

    def run(self) -> None:
        """Do the work that waits."""
        while not self._waiting.empty():
            work, future = self._waiting.get()
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def fail(self, error: BaseException) -> None:
        """Let the work that waits fail."""
        while not self._waiting.empty():
            self._waiting.get()[1].set_exception(error)
