"""Remember which files each artifact was exported from.

An artifact's fingerprint is that of the first row of each tensor, so that it is read in an instant.
Whether every weight is still the one that was exported, sizes and times of the checkpoint's files
tell. They are kept in the user's cache folder, as no two machines have the same; where they are not
known, the fingerprint has to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ..decode import Count, Name, Sha256, decode, read_within
from ..errors import StorageError
from ..files import atomic_write, user_folder
from ..limits import STATE
from ..manifest import FILE_NAME

MOST_REMEMBERED = 64  # artifacts, the latest ones
Stamps = Mapping[Name, tuple[Count, int]]  # size, and modification time in nanoseconds, by name


class _Memory(Struct):
    """The content of `exports.json`: stamps of the checkpoint's files, by the manifest's sha256."""

    exports: Annotated[dict[Sha256, Stamps], Meta(max_length=MOST_REMEMBERED)]


def remember_source(folder: Path, stamps: Stamps) -> None:
    """Remember which files a finished artifact was exported from; do nothing where that fails."""
    known = _remembered()
    known.pop(key := _key(folder), None)
    kept = dict([*known.items(), (key, stamps)][-MOST_REMEMBERED:])
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps({"exports": kept}, ensure_ascii=False).encode())
    except (OSError, StorageError):
        return  # it is exported again where it might have been reused


def recall_source(folder: Path) -> Stamps | None:
    """Return the stamps that an artifact was exported from; None where they are not known here."""
    return _remembered().get(_key(folder))


def _remembered() -> dict[str, Stamps]:
    try:
        return decode(_Memory, read_within(_file(), STATE, ValueError), ValueError).exports
    except (OSError, ValueError, StorageError):
        return {}


def _key(folder: Path) -> str:
    return hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()


def _file() -> Path:
    return user_folder("cache") / "exports.json"
