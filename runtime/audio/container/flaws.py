"""Tell damage from pauses: both leave a gap in time stamps, and only one of them leaves marks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .walks import UNIT_HEAD, unit_bytes

MOST_FAILURES = 16  # to find a packet
LOST_SHARE = 0.5  # of the bytes that a gap's time takes elsewhere; more, and they were not a pause
LEAST_GAP = 0.1  # seconds; in less, headers of packets weigh too much
# Whose packets stand in the file as they come, with little between them
_CONSECUTIVE = {"matroska", "nut", "mpeg", "mpegts", "flv", "rm"}
# Whose frames say how long they are
_MEASURED = ("mp1", "mp2", "mp3", "ac3", "eac3", "dca", "aac")
_one_at_a_time = threading.RLock()


@contextmanager
def _lines_of(av: ModuleType) -> Iterator[list[Any]]:
    """Yield a list that gets what FFmpeg says of a file in this thread, and nobody else does.

    How much it says is a matter of the whole process, so only one thread is in such a block.
    """
    logging = av.logging
    with _one_at_a_time:
        level, is_skipping = logging.get_level(), logging.get_skip_repeated()
        logging.set_skip_repeated(False)
        logging.set_level(max(level or 0, logging.DEBUG))
        try:
            with logging.Capture() as lines:
                if level is not None:  # the program wants to hear of others
                    yield lines
                else:
                    with logging.Capture(local=False):
                        yield lines
        finally:
            logging.set_level(level)
            logging.set_skip_repeated(is_skipping)


def find_flaws(av: ModuleType, opened: Callable[[], Any], size: int) -> list[float]:
    """Return the times in seconds at which a container's packets do not follow each other.

    There FFmpeg has something to say, marks a packet as corrupt, or passes over bytes for which
    there is a gap in the time stamps.

    Args:
        av: PyAV.
        opened: opens the container.
        size: its bytes.
    """
    flaws, clock, last_end, failures = list[float](), 0.0, 0, 0
    with _lines_of(av) as lines, opened() as container:
        # What was read ahead may be damaged; codecs that are not wanted complain there too
        is_suspect = any(
            name == container.format.name and level <= av.logging.ERROR for level, name, _ in lines
        )
        known = len(lines)
        rate = size * av.time_base / container.duration if container.duration else 0.0
        is_consecutive = container.format.name.partition(",")[0] in _CONSECUTIVE
        packets = container.demux(*container.streams)
        while failures < MOST_FAILURES:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError, ValueError):
                flaws.append(clock)
                failures, packets = failures + 1, container.demux(*container.streams)
                continue
            if any(_is_complaint(av, line) for line in lines[known:]):
                flaws.append(clock)
            known = len(lines)
            if packet is None:
                break
            if packet.pts is None or packet.time_base is None:
                continue

            seconds = float(packet.pts * packet.time_base)
            last, clock = clock, max(clock, seconds)
            is_leap = clock - last > LEAST_GAP
            if packet.is_corrupt or (is_suspect and is_leap):
                flaws.append(last)
            if packet.pos is not None:
                passed, last_end = packet.pos - last_end, packet.pos + packet.size
                if is_consecutive and is_leap and passed > LOST_SHARE * rate * (clock - last):
                    flaws.append(last)
    return flaws


def _is_complaint(av: ModuleType, line: tuple[int, str, str]) -> bool:
    return line[0] <= av.logging.INFO or line[2].startswith("Continuity check failed")


def is_part_of_frame(codec: str, packet: bytes) -> bool:
    """Return whether a packet is less than the frame that it begins with."""
    return codec.startswith(_MEASURED) and unit_bytes(packet[:UNIT_HEAD]) > len(packet)
