"""Frames of a file, decoded once where memory allows it, and twice where it does not."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....errors import AudioError
from ....limits import KEPT_SAMPLES
from ..samples import cut
from .formats import RawSound, Sound
from .refusals import LOOKED_BYTES, require_raw


class Frames:
    """The frames of a file, float32 [n, channels] at its own rate, which can be read repeatedly.

    The first reading measures length and losses. Short files are kept in memory from then on;
    others are decoded again each time, and end where they ended at first.
    """

    def __init__(self, name: str, file: Path | BinaryIO, raw: RawSound | None = None):
        """Open a file, which is closed with the frames.

        Raises:
            AudioError: not readable, without sound, or said to be raw and another format.
            DeviceError: what it takes to read it is not installed.
        """
        self.name, self.raw, self._file = name, raw, file
        if not isinstance(file, Path):
            weakref.finalize(self, file.close)
        self._state = _state(file)
        self.num_frames: int | None = None  # known after the first reading
        self._kept: list[np.ndarray] | None = None
        self.losses: tuple[str, ...] = ()
        self.hole_seconds = 0.0
        self._opened: Sound | None = Sound(name, file, raw)
        sound = self._opened
        if raw:
            self._require_raw(sound, raw)
        self.samplerate, self.channels = sound.samplerate, sound.channels
        self.num_parts, self.track = len(sound.parts), sound.track  # track: a note

    def _require_raw(self, sound: Sound, raw: RawSound) -> None:
        head = sound.parts[0].view.peek(0, LOOKED_BYTES)
        expected = f"{self.name}: expected raw {raw.encoding} samples, got"
        try:
            require_raw(head, expected, "leave out --raw")
        except AudioError:
            with sound:
                raise

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] of so many seconds each, the last one shorter.

        Raises:
            AudioError: nothing can be heard, or the file has changed since the first reading.
        """
        size = int(seconds * self.samplerate)
        if self._kept is not None:
            yield from cut(self._kept, size)
        elif self.num_frames is None:
            yield from self._first_look(size)
        else:
            yield from self._again(size, self.num_frames)

    def _first_look(self, size: int) -> Iterator[np.ndarray]:
        """Yield blocks of `size` frames, measuring the file and keeping it if it is short."""
        kept, done, most = list[np.ndarray](), 0, KEPT_SAMPLES // self.channels
        sound, self._opened = self._opened or Sound(self.name, self._file, self.raw), None
        with sound:
            for block in sound.blocks(size):
                done += len(block)
                if done <= most:
                    kept.append(block)
                else:
                    kept.clear()
                yield block
            self.losses, self.hole_seconds = sound.losses.sentences, sound.hole_seconds
        if not done:
            raise AudioError(f"{self.name}: no sound: it holds 0 samples")
        self.num_frames, self._kept = done, kept or None

    def _again(self, size: int, num_frames: int) -> Iterator[np.ndarray]:
        """Yield the blocks of a long file again, as many frames as at first."""
        done, found = 0, _state(self._file)
        has_grown = found[:2] == self._state[:2] and found[2] > self._state[2]
        with Sound(self.name, self._file, self.raw) as sound:
            is_same = self._matches(sound) and (found == self._state or has_grown)
            for block in sound.blocks(size) if is_same else ():
                yield block[: num_frames - done]
                done += len(block)
                if done >= num_frames:
                    return
        raise AudioError(
            f"{self.name}: changed while it was read, after {done / self.samplerate:.1f} s"
        )

    def _matches(self, sound: Sound) -> bool:
        return (sound.samplerate, sound.channels) == (self.samplerate, self.channels)


def _state(file: Path | BinaryIO) -> tuple[int, int, int, int]:
    """Return a file's device, inode, bytes and time of change (ns); zeros if it is gone."""
    try:
        found = file.stat() if isinstance(file, Path) else os.fstat(file.fileno())
    except OSError:
        return 0, 0, 0, 0
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
