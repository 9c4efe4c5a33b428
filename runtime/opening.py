"""Open the recordings that a caller names, in threads ahead of their decoding where that is safe.

Files are, because reading one changes nothing. Whatever else a caller gives is opened when it is
taken: it may be changed afterwards, and a pipe may have nothing to read for long.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from ..threads import num_cores
from .audio.ahead import opened_ahead
from .audio.container.spool import is_read_once
from .audio.files import AudioSource, open_audio

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
Opened = TypeVar("Opened")

MOST_THREADS = 8  # that open files
AHEAD = 2  # files that each of them may have opened


def open_source(audio: Any, rate: int, **sound: Any) -> AudioSource:
    """Open a recording that is not open yet, and log what was found.

    Args:
        audio: as `open_audio` takes it, or a source.
        rate: of the model, in Hz.
        sound: options of `open_audio`.

    Raises:
        AudioError, DeviceError, StorageError: as `open_audio`.
    """
    if not isinstance(audio, AudioSource):
        audio = open_audio(audio, rate, **sound)
    for note in audio.notes:
        _log.info("%s: %s", audio.name, note)
    for loss in audio.losses:
        _log.warning("%s: %s", audio.name, loss)
    return audio


def open_sources(
    audio: Iterator[Any], rate: int, **sound: Any
) -> Generator[AudioSource, None, None]:
    """Open recordings in turn, as `open_source` does; files are opened in threads ahead.

    As long as sources come that are open already, none is taken ahead.
    """
    closed = Event()

    def take(each: Any) -> Any:
        return each if is_file(each) else open_source(each, rate, **sound)

    def open(each: Any) -> AudioSource:
        if isinstance(each, AudioSource):
            return each
        return open_audio(each, rate, **sound, closed=closed)

    for each in audio:
        if isinstance(each, AudioSource):
            yield open_source(each, rate)
            continue
        taken = map(take, chain([each], audio))
        with closing(open_files_ahead(taken, open, closed)) as opened:
            for named, future in opened:
                source = future.result()
                yield source if named is source else open_source(source, rate)


def open_files_ahead(
    items: Iterable[Item], open: Callable[[Item], Opened], closed: Event
) -> Generator[tuple[Item, Future[Opened]], None, None]:
    """Yield items as `opened_ahead` does, with as many threads as suit this machine."""
    threads = min(MOST_THREADS, num_cores())
    return opened_ahead(items, open, threads=threads, ahead=AHEAD * threads, closed=closed)


def is_file(audio: Any) -> bool:
    """Return whether a recording is named by a path that can be read more than once."""
    if not isinstance(audio, str | os.PathLike) or str(audio) == "-":
        return False
    try:
        return not is_read_once(Path(os.fsdecode(audio)))
    except (OSError, ValueError):  # opening it will say why
        return True
