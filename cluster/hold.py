"""Hold the place of an archive's outputs, so that two runs do not write there at once."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from ..errors import StorageError
from ..files import lock
from .place import Place

LOCK = "work/lock"
LEASE_SECONDS = 60.0  # without a sign of life after which a run counts as ended
RENEW_SECONDS = 15.0
SETTLE_SECONDS = 2.0  # in which two runs that begin at once see each other


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Hold a place for a run.

    A local folder is locked by the system, until the process ends. A bucket has no locks: there a
    file tells that the run lives, and is renewed; one that is not renewed any more is ignored.

    Raises:
        StorageError: another run holds it, or it cannot be written.
    """
    if place.is_local:
        path = Path(place.file(LOCK))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path.parent}: cannot be made ({error.strerror})") from error
        with lock(path, busy=_busy(place, "on this machine, or one that shares it")):
            yield
        return
    own = json.dumps(
        {"machine": platform.node(), "process": os.getpid(), "run": secrets.token_hex(8)}
    ).encode()
    _take(place, own)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(place, own, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if _holder(place) == own:
            place.remove(LOCK)


def _take(place: Place, own: bytes) -> None:
    """Write the file, unless another run's is fresh.

    Raises:
        StorageError: it is.
    """
    if holder := _holder(place):
        probe = f"{LOCK}-{json.loads(own)['run']}"
        place.write(probe, own)  # the store's own clock tells how old the other one is
        age = place.modified(probe) - place.modified(LOCK)
        place.remove(probe)
        if age < LEASE_SECONDS:
            seen = f"seen {max(0, age):.0f} s ago; killed ones are forgotten after a minute"
            raise StorageError(_busy(place, f"{_told(holder)}, {seen}"))
    place.write(LOCK, own)
    sleep(SETTLE_SECONDS)
    if (holder := _holder(place)) != own:
        raise StorageError(_busy(place, _told(holder)))


def _renew(place: Place, own: bytes, ended: threading.Event) -> None:
    """Write the file again and again, as long as it is this run's."""
    while not ended.wait(RENEW_SECONDS):
        try:
            if _holder(place) != own:
                return
            place.write(LOCK, own)
        except StorageError:  # which the run itself meets too, if it lasts
            continue


def _holder(place: Place) -> bytes:
    return place.read(LOCK) if place.has(LOCK) else b""


def _told(holder: bytes) -> str:
    values = json.loads(holder or b"{}")
    return f"process {values.get('process')} on {values.get('machine')}"


def _busy(place: Place, who: str) -> str:
    return (
        f"{place.at('')}: another run is writing here ({who}); wait until it has ended, or choose "
        "another folder"
    )
