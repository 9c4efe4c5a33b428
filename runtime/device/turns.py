"""A lock of two kinds, with which several threads use one GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that any number of threads share, or one has alone.

    CUDA records a graph of launches while no other thread launches or allocates, and then replays
    it beside other threads' calls. Recording is rare, so a thread that waits for it goes first.
    """

    def __init__(self):
        self._change = threading.Condition()
        self._sharing, self._waiting, self._is_alone = 0, 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock beside other threads; one that waits to be alone goes first."""
        with self._change:
            while self._is_alone or self._waiting:
                self._change.wait()
            self._sharing += 1
        try:
            yield
        finally:
            with self._change:
                self._sharing -= 1
                if not self._sharing and self._waiting:
                    self._change.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock without any other thread."""
        with self._change:
            self._waiting += 1
            try:
                while self._is_alone or self._sharing:
                    self._change.wait()
            finally:
                self._waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._change:
                self._is_alone = False
                self._change.notify_all()
